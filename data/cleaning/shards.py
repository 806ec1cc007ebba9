"""Writes picture files with their captions, splits and keys to parquet shards, which `data.parquet` reads."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow.parquet import ParquetWriter  # type: ignore[import-untyped]

_GROUP_BYTES = 2**25
"""Bytes of pictures after which a row group ends. A reader keeps two groups in memory."""
_SHARD_BYTES = 2**29
"""Bytes of pictures after which a shard ends."""

_SCHEMA = pa.schema({"key": pa.string(), "image": pa.binary(), "text": pa.list_(pa.string()), "split": pa.string()})


@dataclass(frozen=True)
class Row:
    """A picture to write."""

    key: str
    image: bytes
    text: tuple[str, ...]
    split: str


def write_shards(folder: Path, rows: Iterator[Row]) -> None:
    """Writes `pictures-00000.parquet` and so on into `folder`. The files depend only on the rows."""
    number, written = 0, _SHARD_BYTES
    with ExitStack() as files:
        for group in _groups(rows):
            if written >= _SHARD_BYTES:
                files.close()
                file = folder / f"pictures-{number:05}.parquet"
                # picture files are compressed already
                writer = files.enter_context(ParquetWriter(file, _SCHEMA, compression="none", use_dictionary=["split"]))
                number, written = number + 1, 0
            columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in group] for name in _SCHEMA.names}
            writer.write_table(pa.table(columns, schema=_SCHEMA))
            written += sum(len(row.image) for row in group)


def _groups(rows: Iterator[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row.image)
        if size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
