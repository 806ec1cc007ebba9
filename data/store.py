"""Stores: folders of memory-mapped rows (pictures, codes or latents), each row with a key and captions.

    <folder>/store.json     the head: kind, number of rows, what was left out and why, sizes of the files, hashes
    <folder>/<array>.bin    one array, (rows, *shape), little-endian, without a header
    <folder>/group.bin      int64 (rows,): variants of one thing have the same number
    <folder>/digest.bin     uint8 (rows, 16): a hash of the row's arrays
    <folder>/state.bin      uint8 (rows,): 1 for a row that is present, 2 for one that was left out
    <folder>/texts.jsonl    one line {"key": ..., "captions": [...]} per row
    <folder>/texts.bin      uint64 (rows + 1,): where each line begins

Opening takes the same time for any number of rows: it checks the head by its checksum, and the other files by their
sizes. `Store.verify` reads everything. `data.store_writer` writes stores.
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
MISSING, PRESENT, LEFT_OUT = range(3)
"""Values of `state`."""
DIGEST_BYTES = 16

MAX_HEAD_BYTES = 2**31
"""Largest head. It lists all rows that were left out."""


class Unreadable(Exception):
    """Raised for a picture that cannot be read or rendered. Its row is left out of the store."""


@dataclass(frozen=True)
class Array:
    """The dtype and shape of one array in each row."""

    dtype: str
    """Its name in numpy: `"uint8"`."""
    shape: tuple[int, ...] = ()

    @property
    def row_bytes(self) -> int:
        """Bytes per row."""
        return int(np.dtype(self.dtype).itemsize * prod(self.shape))


COMMON_ARRAYS = {"group": Array("int64"), "digest": Array("uint8", (DIGEST_BYTES,)), "state": Array("uint8")}
"""The arrays of every store, besides those of its kind."""


class Info(Protocol):
    """Describes a kind of store: a dataclass that determines its arrays. It is saved in the head."""

    kind: ClassVar[str]
    """What the rows are: `"codes"`."""
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def arrays(self) -> Mapping[str, Array]:
        """The arrays by name."""


AnyInfo = TypeVar("AnyInfo", bound=Info)


def holds_stores(folder: str | Path, kind: str) -> bool:
    """Whether a folder holds stores of this kind, as `tokenizer.encode` writes them. Raises `BadInput` if they are of
    another kind."""
    head = Path(folder) / "train" / HEAD
    if not head.is_file():
        return False
    if (found := read_json(head, max_bytes=MAX_HEAD_BYTES).get("kind")) != kind:
        raise BadInput(f"{folder}: holds {found}, and not {kind}; `python -m tokenizer.encode` writes either")
    return True


class Store(Generic[AnyInfo]):
    """A store opened for reading.

    A pickled copy holds no rows. The workers of a `DataLoader` map the files themselves.
    """

    def __init__(self, folder: str | Path, info: type[AnyInfo]) -> None:
        """Raises `BadInput` if `folder` is not a complete store of this kind."""
        self.folder = folder = Path(folder)
        if not (folder / HEAD).is_file():
            raise BadInput(f"{folder}: holds no store of {info.kind}")
        try:
            head = read_json(folder / HEAD, max_bytes=MAX_HEAD_BYTES)
            if head.get("format") != FORMAT or head.get("version") != VERSION or head.get("kind") != info.kind:
                raise ValueError(f"{HEAD} is not that of a store of {info.kind}, version {VERSION}")
            if head.get("checksum") != checksum(head):
                raise ValueError(f"{HEAD} was changed")
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
                f"{folder}: a damaged store of {info.kind} ({error}); delete it to have it written again"
            ) from None

    def __len__(self) -> int:
        """Number of rows, including those that were left out."""
        return self._rows

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_maps", "_lines")}

    @cached_property
    def left_out(self) -> Mapping[str, str]:
        """The rows that were left out, as {key: reason}."""
        return {self.key(row): why for row, why in self._left_out.items()}

    def array(self, name: str) -> NDArray[Any]:
        """One array, (rows, *shape), memory-mapped and read-only: an array of the kind, or `group`, `digest` or
        `state`."""
        return self._maps[name]

    def key(self, i: int) -> str:
        """The name of row `i` in its corpus."""
        return self._text(i)[0]

    def captions(self, i: int) -> tuple[str, ...]:
        """The captions of row `i`. A store of pictures has none."""
        return self._text(i)[1]

    def verify(self) -> None:
        """Reads everything. Raises `BadInput` if anything differs from what was written."""
        kept = [self.array(name) for name in self.info.arrays]
        if content_hash(self.folder) != self.hash:
            raise BadInput(f"{self.folder}: its texts or groups were changed or damaged; delete the folder")
        for i in np.flatnonzero(self.array("state") == PRESENT).tolist():
            if digest(array[i].tobytes() for array in kept) != self.array("digest")[i].tobytes():
                raise BadInput(f"{self.folder}: {self.key(i)} (row {i}) was changed or damaged; delete the folder")

    @cached_property
    def _maps(self) -> dict[str, NDArray[Any]]:
        arrays = {**self.info.arrays, **COMMON_ARRAYS}
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
    """The file of an array, memory-mapped and read-only: (rows, *shape)."""
    shape = (rows, *array.shape)
    if not rows:  # an empty file cannot be mapped
        return np.empty(shape, array.dtype)
    return np.memmap(file, np.dtype(array.dtype).newbyteorder("<"), "r", shape=shape)


def digest(parts: Iterable[bytes]) -> bytes:
    """A hash of a row: of its bytes in each array of the kind, in their order."""
    found = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        found.update(part)
    return found.digest()


def content_hash(folder: Path) -> str:
    """A hash of everything in a store. It covers the rows through their digests."""
    found = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for name in ("digest.bin", "state.bin", "group.bin", "texts.bin", LINES):
        with (folder / name).open("rb") as file:
            found.update(hashlib.file_digest(file, "blake2b").digest())
    return found.hexdigest()


def checksum(head: Mapping[str, Any]) -> str:
    """A hash of the head without its `checksum`."""
    said = {name: value for name, value in head.items() if name != "checksum"}
    return digest([json.dumps(said, sort_keys=True).encode()]).hex()
