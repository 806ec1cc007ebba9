"""A user's own pictures: what `datasets` calls an image folder.

    photos/metadata.jsonl      {"file_name": "cat.jpg", "text": "a cat on a sofa"}
    photos/cat.jpg

There may be a `metadata.jsonl` in several folders, each for the pictures beside and below it. A picture's split is what
its line has under `split`, or else the folder it is in, if that is called `train`, `validation` or `test`.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets.exceptions import DatasetGenerationError
from numpy.typing import NDArray

from data.corpus import Corpus
from data.files import content_hashes, visible_files
from data.fit import SUFFIXES, VERSION, fit, original_size
from data.splits import settle, stated_by
from training.errors import BadInput
from training.strict_json import read_json_lines

METADATA = "metadata.jsonl"
_MOST_BYTES = 2**31
"""Of a file of metadata: some ten million lines."""
_LINE = '{"file_name": "cat.jpg", "text": "a cat"}'
_COLUMNS = datasets.Features({name: datasets.Value("string") for name in ("file", "text", "split")})


class FolderCorpus(Corpus):
    """A folder of pictures with their captions in `metadata.jsonl`."""

    def __init__(self, folder: Path, cache: Path) -> None:
        """Reads the captions into a memory-mapped table under `cache`, again whenever a file in `folder` has changed.

        Raises `BadInput` naming the line of metadata that cannot be used.
        """
        self._folder = folder
        files = _list_files(folder)
        metadata = [file for file in files if Path(file).name == METADATA]
        if not metadata:
            raise BadInput(f"{folder}: no {METADATA}, which should have a line like {_LINE} for each picture")
        self.name = folder.resolve().name
        hashes = dict(zip(files, content_hashes([folder / file for file in files], cache), strict=True))
        # whether a line's picture is there is looked at too, hence all names
        state = repr((files, [hashes[file] for file in metadata]))
        self._table = _read(folder, metadata, hashlib.blake2b(state.encode()).hexdigest(), cache)
        self.keys: list[str] = self._table["file"][:]
        # a picture may be listed that does not look like one, or that lies where pictures are not looked for
        others = [key for key in self.keys if key not in hashes]
        hashes |= dict(zip(others, content_hashes([folder / key for key in others], cache), strict=True))
        self.recipe = hashlib.blake2b(repr((VERSION, [(key, hashes[key]) for key in self.keys])).encode()).hexdigest()
        self.splits, self.set_aside = settle(self.keys, self._table["split"][:])
        listed = set(self.keys)
        self.left_out = {
            file: f"not in {METADATA}" for file in files if Path(file).suffix.lower() in SUFFIXES and file not in listed
        }

    def draw(self, i: int, size: int) -> NDArray[np.uint8]:
        """Picture `i` as `data.fit.fit` makes it, uint8 (3, size, size). Raises `Unreadable`."""
        return fit(self._folder / self.keys[i], size)

    def captions(self, i: int) -> tuple[str, ...]:
        """The text of picture `i`, alone."""
        return (self._table[i]["text"],)

    def original_size(self, i: int) -> tuple[int, int]:
        """Width and height of picture `i`. Raises `Unreadable`."""
        return original_size(self._folder / self.keys[i])


def _list_files(folder: Path) -> list[str]:
    """Pictures and metadata below `folder`, in a fixed order."""
    return [
        file.relative_to(folder).as_posix()
        for file in visible_files(folder)
        if file.name == METADATA or file.suffix.lower() in SUFFIXES
    ]


def _read(folder: Path, files: list[str], state: str, cache: Path) -> datasets.Dataset:
    rows = {"folder": folder, "files": files, "state": state}
    try:
        table = datasets.Dataset.from_generator(
            _rows, features=_COLUMNS, cache_dir=str(cache / "datasets"), gen_kwargs=rows
        )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, BadInput | OSError):
            raise error.__cause__ from None
        raise
    assert isinstance(table, datasets.Dataset)
    return table


def metadata_rows(folder: Path) -> Iterator[dict[str, str | None]]:
    """File, text and split of every picture that the metadata in a folder name. Raises `BadInput` naming the line."""
    files = [file.relative_to(folder).as_posix() for file in visible_files(folder) if file.name == METADATA]
    return _rows(folder, files, "")


def _rows(folder: Path, files: list[str], state: str) -> Iterator[dict[str, str | None]]:
    """The lines of these metadata files. `datasets` makes its table again when `state` is another."""
    seen: set[str] = set()
    for metadata in (folder / file for file in files):
        for where, record in _lines(metadata):
            file = metadata.parent.relative_to(folder) / _string(record, "file_name", where)
            there = (folder / file).is_file() or (folder / file).is_symlink()  # to nowhere: cannot be read, like others
            if not there or ".." in file.parts or file.is_absolute():
                raise BadInput(f"{where}: {file} is not a file in {folder}")
            if file.as_posix() in seen:
                raise BadInput(f"{where}: {file} has a caption already; give each picture one line")
            seen.add(file.as_posix())
            stated = record.get("split") is not None  # pandas writes null where nothing is stated
            split = _string(record, "split", where) if stated else stated_by(file.parts[0])
            yield {"file": file.as_posix(), "text": _string(record, "text", where).strip(), "split": split}
    if not seen:
        raise BadInput(f"{folder}: {METADATA} is empty; it should have a line like {_LINE} for each picture")


def _lines(metadata: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        for where, record in read_json_lines(metadata, most=_MOST_BYTES):
            if not isinstance(record, dict):
                raise BadInput(f"{where}: not a JSON object")
            yield where, record
    except BadInput as error:
        raise BadInput(f"{error}; a line should look like {_LINE}") from None


def _string(record: dict[str, Any], field: str, where: str) -> str:
    if field not in record:
        raise BadInput(f"{where}: no {field!r}; a line should look like {_LINE}")
    value = record[field]
    if not isinstance(value, str) or not value.strip():
        raise BadInput(f"{where}: {field!r} is {json.dumps(value)}; it must be a string with something in it")
    return value
