"""Read pictures to score, and their prompts, from a folder."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from data.files import visible_files
from data.folder import list_files
from data.metadata import caption_files, captioned
from data.picture import SUFFIXES, fit, readable, whole
from training.errors import BadInput
from training.files import inside
from training.strict_json import read_json


class Folder(Sequence[Tensor]):
    """The pictures below a folder, in order of their names, uint8 (3, size, size). Each is read when it is indexed."""

    def __init__(self, folder: Path, size: int) -> None:
        self.files = _below(folder)
        self._size = size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Tensor:  # type: ignore[override]
        return readable(fit, self.files[i], self._size)


def list_pictures(folder: Path) -> list[Path]:
    """Picture files below `folder` in natural order: 2.png before 10.png.

    Raises `BadInput` if there are none, or if they lie in several folders, because their order is then unclear.
    """
    files = _below(folder)
    folders = sorted({str(file.parent) for file in files})
    if len(folders) > 1:
        raise BadInput(f"{folder}: its pictures lie in {len(folders)} folders, such as {folders[0]} and {folders[1]}; "
                       "give one of them")  # fmt: skip
    return files


def read_pictures(files: Sequence[Path], *, ended_early: bool = False) -> Tensor:
    """Read picture files without resizing: uint8 (N, 3, H, W).

    With `ended_early`, pictures with H < W are padded to squares: their model may have ended them early. Raises
    `BadInput` for a file that cannot be read or has another size.
    """
    pictures: list[Tensor] = []
    for file in files:
        picture = readable(whole, file)
        if ended_early and picture.shape[1] < picture.shape[2]:
            picture = padded(picture)
        if pictures and picture.shape != pictures[0].shape:
            (_, h, w), (_, first_h, first_w) = picture.shape, pictures[0].shape
            raise BadInput(f"{file}: {w}x{h} pixels, but {files[0].name} has {first_w}x{first_h}; make them one size")
        pictures.append(picture)
    return torch.stack(pictures)


def read_heights(files: Sequence[Path]) -> list[int]:
    """The heights of picture files in pixels. Raises `BadInput` for a file that cannot be read."""
    return [readable(whole, file).shape[1] for file in files]


def list_prompted(folder: Path) -> tuple[list[Path], list[str]]:
    """The picture files of a folder and their prompts, from `generation.json` or `metadata.jsonl`.

    Without either, there are no prompts. Raises `BadInput` if they cannot be read or name a file outside the folder.
    """
    if (folder / "generation.json").is_file():
        return _generated(folder, folder / "generation.json")
    files = list_files(folder) if folder.is_dir() else []
    if not caption_files(files):
        return list_pictures(folder), []
    rows = list(captioned(folder, files))
    return [folder / str(row["file"]) for row in rows], [str(row["text"]) for row in rows]


def _generated(folder: Path, file: Path) -> tuple[list[Path], list[str]]:
    images = read_json(file).get("images")
    if not isinstance(images, list) or not all(
        isinstance(image, dict) and isinstance(image.get("file"), str) and isinstance(image.get("prompt"), str)
        for image in images
    ):
        raise BadInput(f"{file}: must give the file and the prompt of each picture")
    for image in images:
        inside(folder, image["file"])
    return [folder / image["file"] for image in images], [image["prompt"] for image in images]


def padded(picture: Tensor) -> Tensor:
    """Pad a picture (3, h, W) with h < W to a square, with white below."""
    square = torch.full((3, picture.shape[2], picture.shape[2]), 255, dtype=torch.uint8)
    square[:, : picture.shape[1]] = picture
    return square


def _below(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder")
    files = [file for file in visible_files(folder) if file.suffix.lower() in SUFFIXES]
    if not files:
        raise BadInput(f"{folder}: there is no picture in it")
    return sorted(files, key=_natural_key)


def _natural_key(file: Path) -> tuple[list[str | int], Path]:
    """Sort key by which numbers in names are compared as numbers."""
    parts = re.split(r"(\d+)", str(file))  # text and digits alternate
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], file
