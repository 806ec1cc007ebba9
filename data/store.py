"""Pictures drawn once: a memory-mapped stack of them in a folder, each with a digest that is checked on reuse.

    <folder>/pictures.uint8    uint8 (N, 3, size, size) and nothing else
    <folder>/index.json        {"size": ..., "keys": [N], "digests": [N], "skipped": {key: reason}}

While pictures are being drawn the folder is called `.<folder>.part` and has a journal in place of the index: a line for
each chunk whose pictures are in the file. After a kill, the same call goes on where the journal ends.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from tqdm import tqdm

from training.files import appending, naming, put, remove, write_json, write_text
from training.strict_json import parse_json, read_json

Job = TypeVar("Job")

_CHUNK = 256
_PICTURES = "pictures.uint8"
_INDEX = "index.json"
_JOURNAL = "journal.jsonl"
_MOST_BYTES = 2**31
"""Of an index: some ten million pictures."""


class Unreadable(Exception):
    """Raised by a drawing function for a picture that cannot be had; the store goes on without it."""


class _Damaged(Exception):
    """A store that does not hold what its index says."""


@dataclass
class _Index:
    keys: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def extend(self, other: "_Index") -> None:
        self.keys += other.keys
        self.digests += other.digests
        self.skipped |= other.skipped


class PictureStore:
    """N pictures of one size in a folder."""

    def __init__(self, folder: Path, size: int, index: _Index) -> None:
        self.folder = folder
        self.size = size
        self.keys = index.keys
        self.digests = index.digests
        self.skipped = index.skipped
        """Why a picture is not here, by the key that it would have had."""

    @cached_property
    def pictures(self) -> NDArray[np.uint8]:
        """uint8 (N, 3, size, size), memory-mapped and read-only."""
        return _map(self.folder, self.size, len(self.keys))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "pictures"}


def open_store(
    folder: Path,
    size: int,
    keys: Sequence[str],
    jobs: Sequence[Job],
    draw: Callable[[Job], NDArray[np.uint8]],
    label: str,
) -> PictureStore:
    """The store at `folder`; draws its pictures where there is none, and again where it is damaged.

    `draw(jobs[i])` returns the picture that `keys[i]` names, uint8 (3, size, size), or raises `Unreadable`. It is
    called from threads. `label` stands beside the progress bar.
    """
    if store := _reuse(folder, size, keys):
        return store
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        # another process may have drawn them while this one waited for the lock
        if store := _reuse(folder, size, keys):
            return store
        _draw(folder, size, keys, jobs, draw, label)
    return _load(folder, size, keys)


def _reuse(folder: Path, size: int, keys: Sequence[str]) -> PictureStore | None:
    if not folder.exists():
        return None
    try:
        return _load(folder, size, keys)
    except _Damaged as damage:
        warnings.warn(f"the pictures in {folder} are damaged ({damage}): drawing them again", stacklevel=2)
        return None


def _load(folder: Path, size: int, keys: Sequence[str]) -> PictureStore:
    try:
        record = read_json(folder / _INDEX, most=_MOST_BYTES)
        stored_size, index = record.pop("size"), _Index(**record)
        wanted = [key for key in keys if key not in index.skipped]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _Damaged(f"{_INDEX} cannot be read: {error}") from None
    if stored_size != size or index.keys != wanted or len(index.digests) != len(wanted):
        raise _Damaged(f"{_INDEX} does not list the {len(keys):,} pictures wanted")
    _check_pictures(folder, size, index)
    return PictureStore(folder, size, index)


def _check_pictures(folder: Path, size: int, index: _Index) -> None:
    path = folder / _PICTURES
    found, wanted = path.stat().st_size if path.exists() else 0, len(index.keys) * 3 * size * size
    if found < wanted:
        raise _Damaged(f"{_PICTURES} has {found:,} bytes of {wanted:,}")
    for picture, key, digest in zip(_map(folder, size, len(index.keys)), index.keys, index.digests, strict=True):
        if _digest(picture.tobytes()) != digest:
            raise _Damaged(f"picture {key} has changed")


def _draw(
    folder: Path,
    size: int,
    keys: Sequence[str],
    jobs: Sequence[Job],
    draw: Callable[[Job], NDArray[np.uint8]],
    label: str,
) -> None:
    part = folder.with_name(f".{folder.name}.part")
    part.mkdir(exist_ok=True)
    index = _resume(part, size, keys)
    done = len(index.keys) + len(index.skipped)

    def attempt(job: Job) -> NDArray[np.uint8] | Unreadable:
        try:
            return draw(job)
        except Unreadable as error:
            return error

    with (
        naming(part),
        ThreadPoolExecutor(os.cpu_count()) as threads,
        appending(part / _PICTURES) as pictures,
        appending(part / _JOURNAL) as journal,
        tqdm(total=len(keys), initial=done, desc=label, unit="picture", mininterval=1) as progress,
    ):
        for start in range(done, len(keys), _CHUNK):
            chunk = _Index()
            stop = start + _CHUNK
            for key, drawn in zip(keys[start:stop], threads.map(attempt, jobs[start:stop]), strict=True):
                if isinstance(drawn, Unreadable):
                    chunk.skipped[key] = str(drawn)
                else:
                    pixels = drawn.tobytes()
                    pictures.write(pixels)
                    chunk.keys.append(key)
                    chunk.digests.append(_digest(pixels))
                progress.update()
            # pictures first: the journal never names one that is not in the file
            pictures.flush()
            journal.write((json.dumps(asdict(chunk)) + "\n").encode())
            journal.flush()
            index.extend(chunk)
    write_json(part / _INDEX, {"size": size, **asdict(index)})
    put(part, folder)
    remove(folder / _JOURNAL)


def _resume(part: Path, size: int, keys: Sequence[str]) -> _Index:
    """What can be kept of a drawing that was cut short; whatever stands behind it is cut off the two files."""
    index, lines = _Index(), []
    pictures, journal = part / _PICTURES, part / _JOURNAL
    pictures.touch()
    journal.touch()
    with pictures.open("rb") as file:
        for line in journal.read_text(encoding="utf-8").splitlines():
            done = len(index.keys) + len(index.skipped)
            chunk = _parse(line)
            if chunk is None or [key for key in keys[done : done + _CHUNK] if key not in chunk.skipped] != chunk.keys:
                break
            if any(_digest(file.read(3 * size * size)) != digest for digest in chunk.digests):
                break
            index.extend(chunk)
            lines.append(line + "\n")
    os.truncate(pictures, len(index.keys) * 3 * size * size)
    write_text(journal, "".join(lines))
    return index


def _parse(line: str) -> _Index | None:
    try:
        return _Index(**parse_json(line, _JOURNAL))
    except (ValueError, TypeError):  # the line that was being written when the process died
        return None


def _map(folder: Path, size: int, count: int) -> NDArray[np.uint8]:
    if count == 0:  # an empty file cannot be mapped
        return np.empty((0, 3, size, size), np.uint8)
    return np.memmap(folder / _PICTURES, np.uint8, "r", shape=(count, 3, size, size))


def _digest(picture: bytes) -> str:
    return hashlib.blake2b(picture, digest_size=16).hexdigest()
