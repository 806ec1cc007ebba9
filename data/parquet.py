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
from typing import Any

import datasets
import numpy as np
from datasets.exceptions import DatasetGenerationError
from numpy.typing import NDArray
from pyarrow import ArrowException  # type: ignore[import-untyped]
from pyarrow.parquet import read_metadata  # type: ignore[import-untyped]

from data.corpus import Corpus
from data.files import content_hashes, visible_files
from data.picture import VERSION, fit, original_size
from data.splits import settle, stated_by
from data.store import Unreadable
from training.errors import BadInput


class ParquetCorpus(Corpus):
    """Captioned pictures in one parquet file, or in all of a folder."""

    def __init__(self, path: Path, cache: Path) -> None:
        """Copies the tables to memory-mapped ones under `cache`. Raises `BadInput`."""
        folder, files = (path, parquet_files(path)) if path.is_dir() else (path.parent, [path])
        files = [file for file in files if _count_rows(file)]
        self.name = path.resolve().stem
        hashes = content_hashes(files, cache)
        self.recipe = hashlib.blake2b(repr((VERSION, hashes)).encode()).hexdigest()
        self._tables = [_read(file, cache / "datasets" / content) for file, content in zip(files, hashes, strict=True)]
        self._starts = [0, *accumulate(len(table) for table in self._tables)]
        keys, stated = [], []
        for file, table in zip(files, self._tables, strict=True):
            keys += [f"{file.relative_to(folder).as_posix()}#{row}" for row in range(len(table))]
            stated += _splits(file, table)
        self.keys = keys
        self.splits, self.set_aside = settle(keys, stated)

    def draw(self, i: int, size: int) -> NDArray[np.uint8]:
        """Picture `i` as `data.picture.fit` makes it, uint8 (3, size, size). Raises `Unreadable`."""
        return fit(self._bytes(i), size)

    def captions(self, i: int) -> tuple[str, ...]:
        """The text of picture `i`, alone."""
        return (self._row(i)["text"].strip(),)

    def original_size(self, i: int) -> tuple[int, int]:
        """Width and height of picture `i`. Raises `Unreadable`."""
        return original_size(self._bytes(i))

    def _bytes(self, i: int) -> bytes:
        cell = self._row(i)["image"]
        file = cell["bytes"] if isinstance(cell, dict) else cell
        if not isinstance(file, bytes):
            raise Unreadable("no bytes of a picture in the column 'image'")
        return file

    def _row(self, i: int) -> dict[str, Any]:
        number = bisect_right(self._starts, i) - 1
        row: dict[str, Any] = self._tables[number][i - self._starts[number]]
        return row


def parquet_files(folder: Path) -> list[Path]:
    """Tables at any depth, as data sets of the Hub have them; hidden ones are passed over."""
    return [file for file in visible_files(folder) if file.suffix == ".parquet"]


def _read(file: Path, cache: Path) -> datasets.Dataset:
    pattern = glob.escape(str(file.resolve()))
    try:
        # not `load_dataset`, which tells its makers over the network that it was called
        table = datasets.Dataset.from_parquet(pattern, cache_dir=str(cache))
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno:  # no space, no permission
            raise error.__cause__ from None
        raise BadInput(f"{file}: a damaged parquet file ({error.__cause__})") from None
    assert isinstance(table, datasets.Dataset)
    for column in ("image", "text"):
        if column not in table.column_names:
            raise BadInput(f"{file}: no column {column!r}; its columns are {', '.join(table.column_names)}")
    for column in {"text", "split"} & {*table.column_names}:
        if table.features[column] not in (datasets.Value("string"), datasets.Value("large_string")):
            raise BadInput(f"{file}: the column {column!r} is of type {table.features[column]}; it must hold strings")
    if not _holds_bytes(table.features["image"]):
        raise BadInput(
            f"{file}: the column 'image' is of type {table.features['image']}; it must hold encoded pictures"
        )
    for row, text in enumerate(table["text"]):
        if not text or not text.strip():
            raise BadInput(f"{file}, row {row}: no text; every picture must have a caption")
    # as bytes, decoded by us: `datasets` neither turns pictures upright nor says which one it cannot read
    return table.cast_column("image", datasets.Image(decode=False))


def _count_rows(file: Path) -> int:
    try:
        return int(read_metadata(file).num_rows)
    except (ArrowException, OSError) as error:
        if getattr(error, "errno", None):  # no permission
            raise
        raise BadInput(f"{file}: not a parquet file, or not all of one") from None


def _holds_bytes(feature: Any) -> bool:
    if isinstance(feature, dict):
        return "bytes" in feature
    return isinstance(feature, datasets.Image) or feature in (datasets.Value("binary"), datasets.Value("large_binary"))


def _splits(file: Path, table: datasets.Dataset) -> list[str | None]:
    if "split" in table.column_names:
        return list(table["split"])
    return [stated_by(re.split(r"[^a-zA-Z]", file.name)[0])] * len(table)
