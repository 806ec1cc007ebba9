"""Pictures to judge: anyone's folder, or the real ones that a suite is about."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.fit import fit
from data.grid import from_pil
from data.store import Unreadable
from evaluation.features import Pictures
from training.errors import BadInput
from training.files import inside
from training.strict_json import read_json, read_json_lines

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


class Folder(Sequence[Tensor]):
    """The pictures below a folder, in order of their names, read when they are asked for: uint8 (3, size, size)."""

    def __init__(self, folder: Path, size: int) -> None:
        self.files = _below(folder)
        self._size = size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Tensor:  # type: ignore[override]
        try:
            return torch.from_numpy(np.ascontiguousarray(fit(self.files[i], self._size)))
        except Unreadable as error:
            raise BadInput(f"{self.files[i]}: cannot be read ({error})") from None


def list_pictures(folder: Path) -> list[Path]:
    """Picture files in `folder`, as people count them: 2.png before 10.png.

    Raises `BadInput` where there are none, or where they lie in several folders, which nobody put in an order.
    """
    files = _below(folder)
    folders = sorted({str(file.parent) for file in files})
    if len(folders) > 1:
        raise BadInput(f"{folder}: its pictures lie in {len(folders)} folders, such as {folders[0]} and {folders[1]}; "
                       "give one of them")  # fmt: skip
    return files


def read_pictures(files: Sequence[Path], *, ended_early: bool = False) -> Tensor:
    """Files as they are, uint8 (N, 3, H, W); those that their model may have `ended_early` are made square.

    Raises `BadInput` for one that cannot be read or has another size.
    """
    pictures: list[Tensor] = []
    for file in files:
        picture = _read(file)
        if ended_early and picture.shape[1] < picture.shape[2]:
            picture = padded(picture)
        if pictures and picture.shape != pictures[0].shape:
            (_, h, w), (_, first_h, first_w) = picture.shape, pictures[0].shape
            raise BadInput(f"{file}: {w}x{h} pixels, but {files[0].name} has {first_w}x{first_h}; make them one size")
        pictures.append(picture)
    return torch.stack(pictures)


def prompted(folder: Path) -> tuple[list[Path], list[str]]:
    """Picture files of a folder and their prompts, as `generation.json` or `metadata.jsonl` say; else no prompts.

    Raises `BadInput` where those name anything but files in the folder.
    """
    if (folder / "generation.json").is_file():
        file, names = folder / "generation.json", ("file", "prompt")
        listed = read_json(file, most=2**27).get("images", [])
        rows = [(str(file), row) for row in listed] if isinstance(listed, list) else [(str(file), listed)]
    elif (folder / "metadata.jsonl").is_file():
        file, names = folder / "metadata.jsonl", ("file_name", "text")
        rows = list(read_json_lines(file, most=2**27))
    else:
        return list_pictures(folder), []
    files, prompts = [], []
    for where, row in rows:
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in names):
            raise BadInput(f"{where}: does not name {' and '.join(names)} of each picture")
        inside(folder, row[names[0]])
        files.append(folder / row[names[0]])
        prompts.append(row[names[1]])
    return files, prompts


def padded(picture: Tensor) -> Tensor:
    """A picture that its model ended early, (3, h, W) with h < W, as a square with white below."""
    square = torch.full((3, picture.shape[2], picture.shape[2]), 255, dtype=torch.uint8)
    square[:, : picture.shape[1]] = picture
    return square


def stacked(pictures: Pictures) -> Tensor:
    """uint8 (N, 3, H, W), in memory."""
    return torch.stack([pictures[i] for i in range(len(pictures))])


def _below(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder")
    files = [file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES]
    if not files:
        raise BadInput(f"{folder}: there is not one picture in it")
    return sorted(files, key=_counted)


def _counted(file: Path) -> tuple[list[str | int], Path]:
    """What to sort by, so that numbers in names count as numbers."""
    parts = re.split(r"(\d+)", str(file))  # text and digits in turn
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], file


def _read(file: Path) -> Tensor:
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                upright = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
            return from_pil(upright.convert("RGB"))
    except FileNotFoundError:
        raise BadInput(f"{file}: no such file") from None
    except Exception as error:  # a decoder may raise anything on a damaged file
        raise BadInput(f"{file}: cannot be read ({' '.join(str(error).split()) or type(error).__name__})") from None
