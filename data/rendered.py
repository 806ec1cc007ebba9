"""Renders the pictures of a corpus at one size, once, and keeps them in a store."""

import hashlib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from tqdm import tqdm

from data.store import Array, Store, Unreadable
from data.store_writer import Part, begin, finish
from training.errors import BadInput
from training.files import remove

_AT_ONCE = 256
"""Most rendered pictures in memory that are not written yet."""


@dataclass(frozen=True, kw_only=True)
class PictureInfo:
    """Describes a store of pictures."""

    kind: ClassVar[str] = "pictures"

    size: int
    """Width and height, in pixels."""
    keys: str
    """A hash of the keys of its rows, in order."""

    @property
    def arrays(self) -> Mapping[str, Array]:
        """`pictures` (3, size, size) uint8 for each row: RGB on white."""
        return {"pictures": Array("uint8", (3, self.size, self.size))}


def rendered(
    folder: Path,
    size: int,
    keys: Sequence[str],
    positions: Sequence[int],
    render: Callable[[int], NDArray[np.uint8]],
    label: str,
) -> Store[PictureInfo]:
    """Opens the store of pictures in `folder`, with one row for each of `keys`. Renders it first if needed.

    It is rendered if it is missing, damaged or of other pictures. Several processes may ask at once: one renders and
    the others wait.

    Args:
        folder: where the store is, or will be.
        size: width and height, in pixels.
        keys: names of the pictures.
        positions: where each picture is in its corpus. Rows are rendered in this order, in which files hold them.
        render: returns the picture at a position, uint8 (3, size, size). If it raises `Unreadable`, the row is left
            out. It is called from several threads.
        label: text beside the progress bar.
    """
    info = PictureInfo(size=size, keys=hashlib.blake2b(repr(list(keys)).encode(), digest_size=16).hexdigest())
    if (store := _reuse(folder, info)) is not None:
        return store
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if (store := _reuse(folder, info)) is not None:  # rendered by another process while this one waited
            return store
        remove(folder)  # a damaged one
        begin(folder, info, [(key, key, ()) for key in keys])
        with Part(folder, info) as part, ThreadPoolExecutor(os.cpu_count()) as threads:
            _render_missing(part, positions, render, threads, label)
        finish(folder, info)
    return Store(folder, PictureInfo)


def _reuse(folder: Path, info: PictureInfo) -> Store[PictureInfo] | None:
    if not folder.exists():
        return None
    try:
        store = Store(folder, PictureInfo)
        if store.info != info:
            raise BadInput(f"{folder}: holds other pictures")
        return store
    except BadInput as damage:
        warnings.warn(f"{damage}: rendering them again", stacklevel=3)
        return None


def _render_missing(
    part: Part[PictureInfo],
    positions: Sequence[int],
    render: Callable[[int], NDArray[np.uint8]],
    threads: ThreadPoolExecutor,
    label: str,
) -> None:
    def attempt(row: int) -> NDArray[np.uint8] | Unreadable:
        try:
            return render(positions[row])
        except Unreadable as error:
            return error

    missing = sorted(part.missing().tolist(), key=lambda row: positions[row])
    with tqdm(
        total=len(positions), initial=len(positions) - len(missing), desc=label, unit="picture", mininterval=1
    ) as progress:
        for start in range(0, len(missing), _AT_ONCE):
            rows = missing[start : start + _AT_ONCE]
            for row, picture in zip(rows, threads.map(attempt, rows), strict=True):
                if isinstance(picture, Unreadable):
                    part.leave_out(row, str(picture))
                else:
                    part.write(row, pictures=picture[None])
                progress.update()
