"""Writes a store (`data.store`). Several processes may write at once, and a stopped one can be continued.

An unfinished store is called `.<folder>.part`. All its files have their full size from the start, so any process can
write any row without asking others. A row counts as present only once it is complete. Rows that a killed process has
not completed are written again later.
"""

import hashlib
import json
from array import array as numbers
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Generic

import numpy as np
from numpy.typing import NDArray

from data.store import (
    COMMON_ARRAYS,
    DIGEST_BYTES,
    FORMAT,
    HEAD,
    LEFT_OUT,
    LINES,
    MAX_HEAD_BYTES,
    MISSING,
    PRESENT,
    VERSION,
    AnyInfo,
    checksum,
    content_hash,
    digest,
    mapped,
)
from training.config import to_dict
from training.errors import BadInput, printable
from training.files import appending, placing, put, remove, reserve, write_at, write_bytes, write_json
from training.strict_json import read_json, read_json_lines

_PLAN, _LEFT_OUT = "plan.json", "left-out.jsonl"

Text = tuple[str, str, Iterable[str]]
"""Key, group and captions of a row."""


def begin(folder: Path, info: AnyInfo, texts: Iterable[Text]) -> int:
    """Creates the files of an unfinished store; or keeps those of one with the same plan, to continue it.

    One process calls it, before any opens a `Part`.

    Args:
        folder: where the finished store will be.
        info: describes it.
        texts: one for each row. It is iterated twice.

    Returns:
        The number of rows.

    Raises:
        BadInput: `folder` holds anything but a store. A store would be replaced.
    """
    require_free(folder)
    part = part_of(folder)
    plan = {"kind": info.kind, "info": to_dict(info), "texts": _hash(texts)}
    if (part / _PLAN).is_file() and _read_plan(part) == plan:
        return _keep_complete_rows(part, info)
    remove(part)
    part.mkdir(parents=True)
    begins, groups, known = numbers("Q", [0]), numbers("q"), dict[str, int]()
    with appending(part / LINES) as file:
        for line, group in _lines(texts):
            file.write(line)
            begins.append(begins[-1] + len(line))
            groups.append(known.setdefault(group, len(known)))
    for name, kind in {**info.arrays, **COMMON_ARRAYS}.items():
        reserve(part / f"{name}.bin", kind.row_bytes * len(groups))
    write_bytes(part / "texts.bin", np.array(begins, "<u8").tobytes())
    write_bytes(part / "group.bin", np.array(groups, "<i8").tobytes())
    write_bytes(part / _LEFT_OUT, b"")
    write_json(part / _PLAN, plan)
    return len(groups)


class Part(Generic[AnyInfo]):
    """Context manager that opens an unfinished store for writing. Several processes may have it open."""

    def __init__(self, folder: Path, info: AnyInfo) -> None:
        self.path, self.info = part_of(folder), info
        self._files = ExitStack()
        self._open: dict[str, BinaryIO] = {}

    def __enter__(self) -> "Part[AnyInfo]":
        for name in [*self.info.arrays, "digest", "state"]:
            self._open[name] = self._files.enter_context(placing(self.path / f"{name}.bin"))
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def missing(self) -> NDArray[np.int64]:
        """The rows that are not written yet, in order: int64 (n,)."""
        return np.flatnonzero(_states(self.path) == MISSING)

    def write(self, first: int, **rows: NDArray[Any]) -> None:
        """Writes n rows from row `first` on: (n, *shape) for each array of the kind."""
        kept = {name: np.ascontiguousarray(rows[name], kind.dtype) for name, kind in self.info.arrays.items()}
        count = len(next(iter(kept.values())))
        for name, kind in self.info.arrays.items():
            if kept[name].shape != (count, *kind.shape):
                raise ValueError(f"{name} is of shape {kept[name].shape}, not {(count, *kind.shape)}")
            write_at(self._open[name], first * kind.row_bytes, kept[name].tobytes())
        digests = [digest(one[i].tobytes() for one in kept.values()) for i in range(count)]
        write_at(self._open["digest"], first * DIGEST_BYTES, b"".join(digests))
        write_at(self._open["state"], first, bytes([PRESENT]) * count)  # last: until then the rows count as missing

    def leave_out(self, i: int, why: str) -> None:
        """Marks row `i` as left out, with the reason."""
        with appending(self.path / _LEFT_OUT) as file:
            file.write(json.dumps({"row": i, "why": printable(why)}).encode() + b"\n")
        write_at(self._open["state"], i, bytes([LEFT_OUT]))


def finish(folder: Path, info: AnyInfo) -> None:
    """Renames a complete store to `folder`, replacing an older store. One process calls it.

    Raises:
        BadInput: rows are missing.
    """
    part = part_of(folder)
    states = _states(part)
    if lacking := int((states == MISSING).sum()):
        raise BadInput(f"{part}: {lacking:,} rows are missing; give the same command again to write them")
    lines = read_json_lines(part / _LEFT_OUT, MAX_HEAD_BYTES)
    left_out = {int(line["row"]): str(line["why"]) for _, line in lines}
    files = [f"{name}.bin" for name in [*info.arrays, *COMMON_ARRAYS, "texts"]] + [LINES]
    head = {
        "format": FORMAT, "version": VERSION, "kind": info.kind, "rows": len(states), "info": to_dict(info),
        "left_out": {str(row): why for row, why in sorted(left_out.items())},
        "sizes": {name: (part / name).stat().st_size for name in files}, "hash": content_hash(part),
    }  # fmt: skip
    write_json(part / HEAD, {**head, "checksum": checksum(head)})
    for name in (_LEFT_OUT, _PLAN):
        remove(part / name)
    put(part, folder)


def part_of(folder: Path) -> Path:
    """The folder of a store until it is finished."""
    return folder.with_name(f".{folder.name}.part")


def require_free(folder: Path) -> None:
    """Raises `BadInput` if `folder` holds anything but a store, which may be replaced."""
    if folder.is_dir():
        names = {path.name for path in folder.iterdir()}
        if not names or (HEAD in names and names == {HEAD, *read_json(folder / HEAD, MAX_HEAD_BYTES).get("sizes", ())}):
            return
    if folder.exists():
        raise BadInput(f"{folder}: holds something else than a store of Tessera; choose another --out")


def _lines(texts: Iterable[Text]) -> Iterator[tuple[bytes, str]]:
    """Yields the line of each row in `texts.jsonl`, and the row's group."""
    for key, group, captions in texts:
        yield json.dumps({"key": key, "captions": list(captions)}).encode() + b"\n", group


def _hash(texts: Iterable[Text]) -> str:
    found = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for line, group in _lines(texts):
        found.update(line + repr(group).encode() + b"\n")
    return found.hexdigest()


def _read_plan(part: Path) -> Mapping[str, Any] | None:
    try:
        return read_json(part / _PLAN)
    except BadInput:
        return None


def _keep_complete_rows(part: Path, info: AnyInfo) -> int:
    """Marks as missing the rows that a power cut damaged, and those left out, as the reason may be gone.

    Returns:
        The number of rows.
    """
    states = _states(part)
    arrays = [mapped(part / f"{name}.bin", kind, len(states)) for name, kind in info.arrays.items()]
    digests = mapped(part / "digest.bin", COMMON_ARRAYS["digest"], len(states))
    with placing(part / "state.bin") as file:
        for i in np.flatnonzero(states):
            if states[i] != PRESENT or digest(one[i].tobytes() for one in arrays) != digests[i].tobytes():
                write_at(file, int(i), bytes([MISSING]))
    write_bytes(part / _LEFT_OUT, b"")
    return len(states)


def _states(part: Path) -> NDArray[np.uint8]:
    return np.fromfile(part / "state.bin", np.uint8)
