"""Writing files whole or not at all."""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from training.errors import BadInput

_LEFTOVER = re.compile(r"\.(.+)\.\d+\.(tmp|old)")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names `path` in an `OSError` that names no file: the one of a full disk comes from writing, not from opening."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary sibling of `path`, a file or a folder to be; renames it to `path` when the block succeeds.

    Whatever stood at `path` stays until then, and stays for good when the block raises. A folder in place of an older
    folder moves the older one aside first, so that the name never holds a mixture.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _remove(temporary)
    try:
        with naming(path):
            yield temporary
        if temporary.is_dir() and path.exists():
            _exchange(path, temporary)
        else:
            temporary.replace(path)
    finally:
        _remove(temporary)


def _exchange(path: Path, newer: Path) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.old")
    path.rename(aside)
    try:
        newer.rename(path)
    except OSError:
        aside.rename(path)
        raise
    _remove(aside)


def inside(folder: Path, name: str) -> Path:
    """The file `name` below `folder`, where somebody else may have written the name: in a result, a bundle, metadata.

    Raises:
        BadInput: it leads outside the folder, by itself or through a link, or no regular file is there.
    """
    shown = f"{folder}: names the file {name[:200]!r}"
    if (
        not name
        or "\0" in name
        or "\\" in name
        or PurePosixPath(name).is_absolute()
        or ".." in PurePosixPath(name).parts
    ):
        raise BadInput(f"{shown}: must be a relative path inside the folder")
    try:
        path = (folder / name).resolve(strict=True)
    except (OSError, RuntimeError):
        raise BadInput(f"{shown}, but there is none") from None
    if not path.is_relative_to(folder.resolve()):
        raise BadInput(f"{shown}, which is a link to somewhere outside of it")
    if not path.is_file():
        raise BadInput(f"{shown}, which is not a regular file")
    return path


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def splice(path: Path, name: str, text: str) -> None:
    """Replaces what stands in a file between the lines `<!-- name -->` and `<!-- /name -->`, atomically.

    Raises `BadInput` when they are not there, once each and in this order, or when one of them is in `text`.
    """
    before = path.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if before.count(begin) != 1 or before.count(end) != 1 or before.find(end) < before.find(begin):
        raise BadInput(f"{path}: must have {begin} once, followed by {end} once, between which the table belongs")
    if begin in text or end in text:
        raise BadInput(f"{path}: the table must not hold {begin} or {end} itself, or the next one would be put amiss")
    write_text(path, f"{before[: before.find(begin)]}{begin}\n{text}{before[before.find(end) :]}")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes `tensors` as safetensors, atomically. A full disk is an `OSError`, as everywhere else."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with atomic(path) as temporary:
            save_file(contiguous, temporary, metadata={"format": "pt"})
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def remove_leftovers(folder: Path) -> None:
    """Removes what a process killed inside `atomic` left in `folder`; call it where no other process can be writing.

    What was moved aside for something that then did not come is put back.
    """
    for path in sorted(folder.glob(".*")):
        match = _LEFTOVER.fullmatch(path.name)
        if match and match[2] == "old" and not (folder / match[1]).exists():
            path.rename(folder / match[1])
        elif match:
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
