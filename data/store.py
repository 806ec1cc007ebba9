"""Rows made once and kept in a folder: pictures, codes or latents, memory-mapped, with a key and captions each.

    <folder>/store.json     what it is: rows, what was left out and why, sizes of its files, a hash of everything
    <folder>/<array>.bin    one array, (rows, *shape), little-endian, and nothing else
    <folder>/group.bin      int64 (rows,): rows of one number are variants of one thing
    <folder>/digest.bin     uint8 (rows, 16): a hash of what a row has in its arrays
    <folder>/state.bin      uint8 (rows,): whether a row is there; 2 where it was left out
    <folder>/texts.jsonl    a line {"key": ..., "captions": [...]} a row
    <folder>/texts.bin      uint64 (rows + 1,): where each line begins

A store of any number of rows is opened in the same time: `store.json` is checked by a hash of its own, and the other
files by the sizes that it says. `Store.verify` reads everything. `data.store_writer` makes stores.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from training.config import from_dict
from training.errors import BadInput
from training.strict_json import read_json

FORMAT = "tessera-store"
VERSION = 1
HEAD, LINES = "store.json", "texts.jsonl"
MISSING, THERE, LEFT_OUT = range(3)
"""States of a row."""
DIGEST_BYTES = 16

_MAX_BYTES = 2**31
"""Of a head: what was left out is in it."""


class Unreadable(Exception):
    """Raised for a picture that cannot be had; the store goes on without it."""


@dataclass(frozen=True)
class Array:
    """What each row of a store has in one array."""

    dtype: str
    """As numpy calls it: `"uint8"`."""
    shape: tuple[int, ...] = ()

    @property
    def row_bytes(self) -> int:
        """Of one row."""
        return int(np.dtype(self.dtype).itemsize * prod(self.shape))


OWN = {"group": Array("int64"), "digest": Array("uint8", (DIGEST_BYTES,)), "state": Array("uint8")}
"""Arrays that every store has."""


class Info(Protocol):
    """What a store says of itself: a dataclass, from which follow its arrays."""

    kind: ClassVar[str]
    """What its rows are: `"codes"`."""
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def arrays(self) -> Mapping[str, Array]:
        """Its arrays, by name."""


AnyInfo = TypeVar("AnyInfo", bound=Info)


class Store(Generic[AnyInfo]):
    """A folder of rows, opened for reading.

    A pickled copy carries no rows: the workers of a `DataLoader` map the files themselves.
    """

    def __init__(self, folder: str | Path, info: type[AnyInfo]) -> None:
        """Raises `BadInput` where `folder` holds no store of this kind, or not all of one."""
        self.folder = folder = Path(folder)
        if not (folder / HEAD).is_file():
            raise BadInput(f"{folder}: holds no store of {info.kind}")
        try:
            head = read_json(folder / HEAD, max_bytes=_MAX_BYTES)
            if head.get("format") != FORMAT or head.get("version") != VERSION or head.get("kind") != info.kind:
                raise ValueError(f"{HEAD} is not of version {VERSION} of a store of {info.kind}")
            if head.get("checksum") != checksum(head):
                raise ValueError(f"{HEAD} is not as it was written")
            self.info = from_dict(info, head["info"])
            self.hash: str = head["hash"]
            self._left_out: dict[int, str] = {int(row): str(why) for row, why in head["left_out"].items()}
            self._rows: int = head["rows"]
            for name, size in head["sizes"].items():
                file = folder / name
                if (found := file.stat().st_size if file.is_file() else 0) != size:
                    raise ValueError(f"{name} has {found:,} bytes of {size:,}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(
                f"{folder}: a damaged store of {info.kind} ({error}); delete it to have it made again"
            ) from None

    def __len__(self) -> int:
        """Rows, those that were left out among them."""
        return self._rows

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_maps", "_lines")}

    @cached_property
    def left_out(self) -> Mapping[str, str]:
        """Why a row is not there, by its key."""
        return {self.key(row): why for row, why in self._left_out.items()}

    def array(self, name: str) -> NDArray[Any]:
        """(rows, *shape), memory-mapped and read-only: one of its kind's, or `group`, `digest` or `state`."""
        return self._maps[name]

    def key(self, i: int) -> str:
        """The name of row `i` in its corpus."""
        return self._text(i)[0]

    def captions(self, i: int) -> tuple[str, ...]:
        """The captions of row `i`; a store of pictures has none."""
        return self._text(i)[1]

    def verify(self) -> None:
        """Reads everything. Raises `BadInput` where it is not what was written."""
        kept = [self.array(name) for name in self.info.arrays]
        if content_hash(self.folder) != self.hash:
            raise BadInput(f"{self.folder}: its texts or groups are not as they were written; delete the folder")
        for i in np.flatnonzero(self.array("state") == THERE).tolist():
            if digest(array[i].tobytes() for array in kept) != self.array("digest")[i].tobytes():
                raise BadInput(f"{self.folder}: {self.key(i)} (row {i}) is not as it was written; delete the folder")

    @cached_property
    def _maps(self) -> dict[str, NDArray[Any]]:
        arrays = {**self.info.arrays, **OWN}
        maps = {name: mapped(self.folder / f"{name}.bin", array, self._rows) for name, array in arrays.items()}
        return {**maps, "texts": mapped(self.folder / "texts.bin", Array("uint64"), self._rows + 1)}

    @cached_property
    def _lines(self) -> NDArray[np.uint8]:
        return mapped(self.folder / LINES, Array("uint8"), int(self._maps["texts"][-1]))

    def _text(self, i: int) -> tuple[str, tuple[str, ...]]:
        begin, end = self._maps["texts"][i], self._maps["texts"][i + 1]
        try:
            text = json.loads(self._lines[begin:end].tobytes())
            key, captions = text["key"], text["captions"]
            if not isinstance(key, str) or not all(isinstance(caption, str) for caption in captions):
                raise TypeError
            return key, tuple(captions)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise BadInput(f"{self.folder / LINES}, line {i + 1}: not a key and captions; delete the folder") from None


def mapped(file: Path, array: Array, rows: int) -> NDArray[Any]:
    """`rows` rows of an array's file, read-only."""
    shape = (rows, *array.shape)
    if not rows:  # an empty file cannot be mapped
        return np.empty(shape, array.dtype)
    return np.memmap(file, np.dtype(array.dtype).newbyteorder("<"), "r", shape=shape)


def digest(parts: Iterable[bytes]) -> bytes:
    """Of what a row has in each of its kind's arrays, in their order."""
    found = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        found.update(part)
    return found.digest()


def content_hash(folder: Path) -> str:
    """Of everything in a store: its rows by their digests."""
    found = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for name in ("digest.bin", "state.bin", "group.bin", "texts.bin", LINES):
        with (folder / name).open("rb") as file:
            found.update(hashlib.file_digest(file, "blake2b").digest())
    return found.hexdigest()


def checksum(head: Mapping[str, Any]) -> str:
    """Of all that a head says besides."""
    said = {name: value for name, value in head.items() if name != "checksum"}
    return digest([json.dumps(said, sort_keys=True).encode()]).hex()
