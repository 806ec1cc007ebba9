"""A user's own pictures in parquet, read by `datasets`: a column `image` of encoded pictures and a column `text`.

`image` holds the bytes of picture files, bare or as `{"bytes": ...}`. A picture's split is what its row has under
`split`, or else what the name of its file begins with, as in `train-00000-of-00002.parquet`.
"""

import glob
import hashlib
import re
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data.corpus import Corpus
from data.fit import fit, original_size
from data.splits import settle, stated_by
from data.store import Unreadable
from training.errors import BadInput


class ParquetCorpus(Corpus):
    """Captioned pictures in one parquet file, or in all of a folder."""

    def __init__(self, path: Path, cache: Path) -> None:
        """Copies the tables to memory-mapped ones under `cache`. Raises `BadInput`."""
        files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        self.name = path.resolve().stem
        self.recipe = hashlib.blake2b(repr(states).encode()).hexdigest()
        self._tables = [_read(file, cache) for file in files]
        self._starts = [0, *accumulate(len(table) for table in self._tables)]
        self.keys = [
            f"{file.relative_to(path if path.is_dir() else path.parent).as_posix()}#{row}"
            for file, table in zip(files, self._tables, strict=True)
            for row in range(len(table))
        ]
        stated = [split for file, table in zip(files, self._tables, strict=True) for split in _splits(file, table)]
        self.splits = settle(self.keys, stated)

    def draw(self, i: int, size: int) -> NDArray[np.uint8]:
        """Picture `i` as `data.fit.fit` makes it, uint8 (3, size, size). Raises `Unreadable`."""
        return fit(self._bytes(i), size)

    def captions(self, i: int) -> tuple[str, ...]:
        """The text of picture `i`, alone."""
        return (self._cell(i, "text").strip(),)

    def original_size(self, i: int) -> tuple[int, int]:
        """Width and height of picture `i`. Raises `Unreadable`."""
        return original_size(self._bytes(i))

    def _bytes(self, i: int) -> bytes:
        cell = self._cell(i, "image")
        file = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(file, bytes):
            raise Unreadable("no bytes of a picture in the column 'image'")
        return file

    def _cell(self, i: int, column: str) -> object:
        number = bisect_right(self._starts, i) - 1
        return self._tables[number][i - self._starts[number]][column][0].as_py()


def _read(file: Path, cache: Path) -> datasets.Dataset:
    try:
        loaded = datasets.load_dataset(
            "parquet", data_files={"rows": glob.escape(str(file.resolve()))}, cache_dir=str(cache / "datasets")
        )
    except (pa.ArrowInvalid, datasets.exceptions.DatasetGenerationError) as error:
        raise BadInput(f"{file}: not a parquet file that can be read ({error})") from None
    table = loaded["rows"].with_format("arrow")
    for column in ("image", "text"):
        if column not in table.column_names:
            raise BadInput(f"{file}: no column {column!r}, but {', '.join(table.column_names)}")
    text = table.data.column("text")
    if not (pa.types.is_string(text.type) or pa.types.is_large_string(text.type)):
        raise BadInput(f"{file}: the column 'text' has values of type {text.type}; they must be strings")
    empty = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(text), ""), True)
    if (row := pc.index(empty, True).as_py()) >= 0:
        raise BadInput(f"{file}, row {row}: no text; every picture must have a caption")
    return table


def _splits(file: Path, table: datasets.Dataset) -> list[str | None]:
    if "split" in table.column_names:
        return table.data.column("split").to_pylist()
    return [stated_by(re.split(r"[^a-zA-Z]", file.name)[0])] * len(table)
