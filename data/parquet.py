"""Captioned pictures in parquet files, with a column `image` of picture files and a column `text`.

`image` holds the bytes of a picture file, directly or as `{"bytes": ...}`. `text` holds a caption, or a list of
captions. The split of a picture is the `split` of its row. Without one, the name of the file decides, as in
`train-00000-of-00002.parquet`, or of the folder that it is in, as in `train/0000.parquet`.
"""

import hashlib
import threading
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

from data.corpus import Corpus
from data.files import content_hashes, files_of
from data.picture import VERSION
from data.splits import assign_splits, split_from_path
from data.store import Unreadable
from training.errors import BadInput

_MAX_BYTES = 2**31
"""Most bytes of the texts of a file, or of the pictures of a row group; two row groups are kept in memory. The size of
the file says nothing about them, because it is compressed."""
_TEXTS_AT_ONCE, _PICTURES_AT_ONCE = 256, 16


class ParquetCorpus(Corpus):
    """Captioned pictures in one parquet file, or in all parquet files below a folder."""

    def __init__(self, path: Path, cache: Path, *, captionless: bool = False) -> None:
        """Reads the texts. Pictures are read when they are rendered. Raises `BadInput`.

        With `captionless`, pictures without a caption are included.
        """
        folder, files = files_of(path, ".parquet")
        tables = [table for table in (_Table(file, captionless) for file in files) if table.starts[-1]]
        self.name = path.resolve().stem
        hashes = content_hashes([table.file for table in tables], cache)
        self.recipe = hashlib.blake2b(repr((VERSION, hashes)).encode()).hexdigest()
        self._tables = tables
        self._starts = [0, *accumulate(table.starts[-1] for table in tables)]
        keys, stated = [], []
        self._captions: list[tuple[str, ...]] = []
        for table in tables:
            name = table.file.relative_to(folder)
            for row, (captions, split) in enumerate(table.texts()):
                self._captions.append(captions)
                keys.append(f"{name.as_posix()}#{row}")
                stated.append(split or split_from_path(name))
        self.keys = keys
        self.splits, self.num_validation = assign_splits(keys, stated)

    def captions(self, i: int) -> tuple[str, ...]:
        """The captions in the row of picture `i`, in order."""
        return self._captions[i]

    def file(self, i: int) -> bytes:
        """The bytes of picture `i`. Raises `Unreadable`."""
        number = bisect_right(self._starts, i) - 1
        content = self._tables[number].picture(i - self._starts[number])
        if content is None:
            raise Unreadable("the column 'image' holds no picture")
        return content


class _Table:
    """One parquet file. Keeps the last two row groups in memory. It can be pickled."""

    _open: ParquetFile | None
    _groups: dict[int, list[bytes | None]]
    _lock: threading.Lock

    def __init__(self, file: Path, captionless: bool) -> None:
        """Raises `BadInput` if it is not a parquet file or columns are missing."""
        self.file, self._captionless = file, captionless
        self._reset()
        try:
            metadata, schema = self._parquet.metadata, self._parquet.schema_arrow
        except (pa.ArrowException, OSError) as error:
            if getattr(error, "errno", None):  # such as no permission
                raise
            raise BadInput(f"{file}: not a complete parquet file") from None
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self.starts = [0, *accumulate(rows)]
        """The first row of each row group, and at the end the number of rows."""
        if not sum(rows):
            return
        kinds = {name: schema.field(name).type for name in schema.names}
        for column in ("image",) if captionless else ("image", "text"):
            if column not in kinds:
                raise BadInput(f"{file}: no column {column!r}; its columns are {', '.join(kinds)}")
        for column in ("text", "split"):
            held = kinds.get(column, pa.string())
            if column == "text" and (pa.types.is_list(held) or pa.types.is_large_list(held)):
                held = held.value_type
            if not (pa.types.is_string(held) or pa.types.is_large_string(held)):
                raise BadInput(f"{file}: the column {column!r} is of type {kinds[column]}; it must hold strings")
        nested = pa.types.is_struct(kinds["image"]) and kinds["image"].get_field_index("bytes") >= 0
        held = kinds["image"].field("bytes").type if nested else kinds["image"]
        if not (pa.types.is_binary(held) or pa.types.is_large_binary(held)):
            raise BadInput(f"{file}: the column 'image' is of type {kinds['image']}; it must hold encoded pictures")
        self._image = "image.bytes" if nested else "image"
        self._columns = [column for column in ("text", "split") if column in kinds]

    def texts(self) -> Iterator[tuple[tuple[str, ...], str | None]]:
        """Yields captions of each row, and its `split` if stated. Raises `BadInput` for a row without a caption."""
        row, size = 0, 0
        if not self._columns:
            yield from [((), None)] * self.starts[-1]
            return
        for batch in self._batches(_TEXTS_AT_ONCE, self._columns, range(len(self.starts) - 1)):
            for cells in batch.to_pylist():
                text = cells.get("text")
                captions = [one.strip() for one in (text if isinstance(text, list) else [text]) if one and one.strip()]
                if not captions and not self._captionless:
                    raise BadInput(f"{self.file}, row {row}: no text; every picture must have a caption")
                size += sum(map(len, captions))
                if size > _MAX_BYTES:
                    raise BadInput(f"{self.file}, row {row}: over {_MAX_BYTES / 2**30:.0f} GiB of text up to here")
                yield tuple(captions), cells.get("split")
                row += 1

    def picture(self, row: int) -> bytes | None:
        """The picture file in a row; None if there is none. Several threads may call it."""
        group = bisect_right(self.starts, row) - 1
        with self._lock:
            if group not in self._groups:
                if len(self._groups) > 1:
                    self._groups.pop(next(iter(self._groups)))
                self._groups[group] = self._pictures(group)
            return self._groups[group][row - self.starts[group]]

    def _pictures(self, group: int) -> list[bytes | None]:
        found: list[bytes | None] = []
        size = 0
        for batch in self._batches(_PICTURES_AT_ONCE, [self._image], [group]):
            for cell in batch.column(0).to_pylist():
                content = cell["bytes"] if isinstance(cell, dict) else cell
                size += len(content or b"")
                if size > _MAX_BYTES:
                    raise BadInput(f"{self.file}: row group {group} holds over {_MAX_BYTES / 2**30:.0f} GiB of "
                                   "pictures; write smaller ones")  # fmt: skip
                found.append(content)
        return found

    def _batches(self, size: int, columns: list[str], groups: Any) -> Iterator[Any]:
        try:
            yield from self._parquet.iter_batches(batch_size=size, columns=columns, row_groups=list(groups))
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise BadInput(f"{self.file}: a damaged parquet file ({error})") from None

    @property
    def _parquet(self) -> ParquetFile:
        if self._open is None:
            self._open = ParquetFile(self.file)
        return self._open

    def _reset(self) -> None:
        self._open, self._groups, self._lock = None, {}, threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_open", "_groups", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._reset()
