"""Pictures to judge: anyone's folder, or the real ones that a suite is about."""

import json
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
from training.pretrained import read_json

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


class Folder(Sequence[Tensor]):
    """The pictures below a folder, in order of their names, read when they are asked for: uint8 (3, size, size)."""

    def __init__(self, folder: Path, size: int) -> None:
        self.files = list_pictures(folder)
        self._size = size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Tensor:  # type: ignore[override]
        try:
            return torch.from_numpy(np.ascontiguousarray(fit(self.files[i], self._size)))
        except Unreadable as error:
            raise BadInput(f"{self.files[i]}: cannot be read ({error})") from None


def list_pictures(folder: Path) -> list[Path]:
    """Picture files below `folder`, by name. Raises `BadInput` where there are none."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES)
    if not files:
        raise BadInput(f"{folder}: there is not one picture in it")
    return files


def read_pictures(files: Sequence[Path]) -> Tensor:
    """Files as they are, uint8 (N, 3, H, W). Raises `BadInput` for one that cannot be read or has another size."""
    pictures: list[Tensor] = []
    for file in files:
        picture = _read(file)
        if pictures and picture.shape != pictures[0].shape:
            (_, h, w), (_, first_h, first_w) = picture.shape, pictures[0].shape
            raise BadInput(f"{file}: {w}x{h} pixels, but {files[0].name} has {first_w}x{first_h}; make them one size")
        pictures.append(picture)
    return torch.stack(pictures)


def prompted(folder: Path) -> tuple[list[Path], list[str]]:
    """Picture files of a folder and their prompts, as `generation.json` or `metadata.jsonl` say; else no prompts."""
    if (folder / "generation.json").is_file():
        images = read_json(folder / "generation.json").get("images", [])
        return [folder / image["file"] for image in images], [image["prompt"] for image in images]
    if (folder / "metadata.jsonl").is_file():
        lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        try:
            rows = [json.loads(line) for line in lines if line.strip()]
            return [folder / row["file_name"] for row in rows], [str(row["text"]) for row in rows]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise BadInput(f"{folder / 'metadata.jsonl'}: not lines with file_name and text ({error})") from None
    return list_pictures(folder), []


def padded(picture: Tensor) -> Tensor:
    """A picture that its model ended early, (3, h, W) with h < W, as a square with white below."""
    square = torch.full((3, picture.shape[2], picture.shape[2]), 255, dtype=torch.uint8)
    square[:, : picture.shape[1]] = picture
    return square


def stacked(pictures: Pictures) -> Tensor:
    """uint8 (N, 3, H, W), in memory."""
    return torch.stack([pictures[i] for i in range(len(pictures))])


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
