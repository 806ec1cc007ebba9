"""Captions of the pictures in a folder, from tables or from text files.

    photos/metadata.jsonl      {"file_name": "cat.jpg", "text": "a cat on a sofa"}
    photos/metadata.csv        file_name,text
                               cat.jpg,a cat on a sofa
    photos/metadata.parquet    the same columns
    photos/cat.txt             a cat on a sofa

Several folders may have a table, each for the pictures beside and below it. If there is no table at all, a text file
with the name of a picture is its caption. The split of a picture is the `split` of its row. Without one, it is the name
of the top folder, if that is `train`, `validation` or `test`.
"""

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pyarrow import ArrowException  # type: ignore[import-untyped]
from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

from data.files import utf8_text
from data.picture import SUFFIXES
from data.splits import split_from_name
from training.errors import BadInput
from training.strict_json import read_json_lines

TABLES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""Names of caption tables."""

_MAX_BYTES = 2**31
"""Most bytes of a JSON Lines table: some ten million lines."""

_LINE = '{"file_name": "cat.jpg", "text": "a cat"}'
_FORMS = f"a metadata.jsonl has lines like {_LINE}, other tables the columns file_name and text"


def is_table(file: str) -> bool:
    """Whether the name is that of a caption table."""
    return PurePosixPath(file).name in TABLES


def is_picture(file: str) -> bool:
    """Whether the name has the suffix of a picture."""
    return PurePosixPath(file).suffix.lower() in SUFFIXES


def caption_files(files: Sequence[str]) -> list[str]:
    """The files that hold captions: tables, or if there are none, text files with the name of a picture."""
    tables = [file for file in files if is_table(file)]
    named = {str(PurePosixPath(file).with_suffix("")) for file in files if is_picture(file)}
    return tables or [file for file in files if file.endswith(".txt") and file.removesuffix(".txt") in named]


def captioned(folder: Path, files: Sequence[str], *, captionless: bool = False) -> Iterator[dict[str, str | None]]:
    """Yields `file`, `text` and `split` of every picture that has a caption; `split` is None if it is not stated.

    Args:
        folder: the folder.
        files: its pictures, texts and tables, by their names relative to it.
        captionless: also yield the pictures without a caption, with the text "".

    Raises:
        BadInput: a row names no picture, a file outside the folder, or a picture again; or it has no text. The message
            names the row.
    """
    seen: set[str] = set()
    for where, beside, record in _rows(folder, files):
        file = beside / _string(record, "file_name", where)
        there = (folder / file).is_file() or (folder / file).is_symlink()  # broken links count as unreadable pictures
        if not there or ".." in file.parts or file.is_absolute():
            raise BadInput(f"{where}: {file} is not a file in {folder}")
        if file.as_posix() in seen:
            raise BadInput(f"{where}: {file} has a caption already; give each picture only one")
        seen.add(file.as_posix())
        stated = record.get("split") not in (None, "")  # pandas writes missing values as null or as nothing
        split = _string(record, "split", where) if stated else split_from_name(file.parts[0])
        text = "" if captionless and _is_empty(record.get("text")) else _string(record, "text", where).strip()
        yield {"file": file.as_posix(), "text": text, "split": split}
    if captionless:
        for name in (name for name in files if is_picture(name) and name not in seen):
            seen.add(name)
            yield {"file": name, "text": "", "split": split_from_name(PurePosixPath(name).parts[0])}
    if not seen:
        raise BadInput(
            f"{folder}: no captions; write a metadata.jsonl with a line like {_LINE} for each picture, a metadata.csv "
            "with the columns file_name and text, or a text file beside each picture"
        )


def labelled(folder: Path, files: Sequence[str]) -> Iterator[dict[str, str | None]]:
    """`captioned` with the name of a picture's folder as its caption: `photos/tabby_cat/1.jpg` shows "tabby cat".

    The name of a split is not a label. Pictures directly in such a folder, or in no folder, have no caption.
    """
    empty = True
    for file in filter(is_picture, files):
        *parents, _ = PurePosixPath(file).parts
        split = split_from_name(parents[0]) if parents else None
        text = " ".join(re.split(r"[\s_-]+", parents[-1])).strip() if len(parents) > bool(split) else ""
        if text:
            empty = False
            yield {"file": file, "text": text, "split": split}
    if empty:
        raise BadInput(f"{folder}: has no picture in a folder with a label, as in {folder.name}/cat/1.jpg")


def _rows(folder: Path, files: Sequence[str]) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """Yields the place of a row for messages, the folder that its file name is relative to, and the row."""
    pictures = defaultdict(list)
    for file in files:
        if is_picture(file):
            pictures[str(PurePosixPath(file).with_suffix(""))].append(PurePosixPath(file).name)
    for file in caption_files(files):
        beside = Path(file).parent
        if file.endswith(".txt"):
            for name in pictures[file.removesuffix(".txt")]:
                text = " ".join(utf8_text(folder / file).split())
                yield f"{folder / file}", beside, {"file_name": name, "text": text}
        else:
            read = {".jsonl": _of_lines, ".csv": _of_csv, ".parquet": _of_parquet}[Path(file).suffix]
            for where, record in read(folder / file):
                yield where, beside, record


def _of_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        for where, record in read_json_lines(file, max_bytes=_MAX_BYTES):
            if not isinstance(record, dict):
                raise BadInput(f"{where}: not a JSON object")
            yield where, record
    except BadInput as error:
        raise BadInput(f"{error}; a line should look like {_LINE}") from None


def _of_csv(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = csv.DictReader(io.StringIO(utf8_text(file), newline=""))
    try:
        for row in rows:
            where = f"{file}, line {rows.line_num}"
            if None in row:  # what is left over
                raise BadInput(f"{where}: has more values than columns; put a text with commas between double quotes")
            yield where, row
    except csv.Error as error:
        raise BadInput(f"{file}, line {rows.line_num}: not a table ({error})") from None


def _of_parquet(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        table, number = ParquetFile(file), 0
        columns = [name for name in ("file_name", "text", "split") if name in table.schema_arrow.names]
        for batch in table.iter_batches(batch_size=1024, columns=columns):
            for row in batch.to_pylist():
                yield f"{file}, row {number}", row
                number += 1
    except (ArrowException, OSError) as error:
        raise BadInput(f"{file}: a damaged parquet file ({error})") from None


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _string(record: dict[str, Any], field: str, where: str) -> str:
    if field not in record:
        names = ", ".join(record)[:100] or "nothing"
        raise BadInput(f"{where}: no {field!r}, only {names}; {_FORMS}")
    value = record[field]
    if not isinstance(value, str) or _is_empty(value):
        shown = json.dumps(value, default=str)[:100]
        raise BadInput(f"{where}: {field!r} is {shown}; it must be a string that is not empty")
    return value
