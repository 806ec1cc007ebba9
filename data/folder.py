"""A user's own pictures in a folder, with their captions in a table or beside them (`data.metadata`)."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import datasets
from datasets.exceptions import DatasetGenerationError

from data.corpus import Corpus
from data.files import content_hashes, visible_files
from data.metadata import caption_files, captioned, is_picture, is_table, labelled
from data.picture import VERSION
from data.splits import settle
from training.errors import BadInput

_COLUMNS = datasets.Features({name: datasets.Value("string") for name in ("file", "text", "split")})


class FolderCorpus(Corpus):
    """A folder of pictures with their captions."""

    def __init__(self, folder: Path, cache: Path, *, labels: bool = False) -> None:
        """Reads the captions into a memory-mapped table under `cache`, again whenever a file in `folder` has changed.

        With `labels` the names of the folders that pictures are in are their captions.

        Raises `BadInput` naming the row of metadata that cannot be used.
        """
        self._folder = folder
        self.name = folder.resolve().name
        files = list_files(folder)
        hashes = dict(zip(files, content_hashes([folder / file for file in files], cache), strict=True))
        # whether a row's picture is there is looked at too, hence all names
        state = repr((labels, files, [hashes[file] for file in caption_files(files)]))
        table = _read(folder, files, labels, hashlib.blake2b(state.encode()).hexdigest(), cache)
        self.keys, self.texts = table["file"][:], table["text"]
        # a picture may be listed that does not look like one, or that lies where pictures are not looked for
        others = [key for key in self.keys if key not in hashes]
        hashes |= dict(zip(others, content_hashes([folder / key for key in others], cache), strict=True))
        self.recipe = hashlib.blake2b(repr((VERSION, [(key, hashes[key]) for key in self.keys])).encode()).hexdigest()
        self.splits, self.set_aside = settle(self.keys, table["split"][:])
        listed = set(self.keys)
        self.left_out = {file: "has no caption" for file in files if is_picture(file) and file not in listed}

    def file(self, i: int) -> Path:
        """Picture `i`."""
        return self._folder / self.keys[i]


def list_files(folder: Path) -> list[str]:
    """Pictures, tables and texts below `folder`, by their names from there, in a fixed order."""
    found = (file.relative_to(folder).as_posix() for file in visible_files(folder))
    return [file for file in found if is_table(file) or is_picture(file) or file.endswith(".txt")]


def _read(folder: Path, files: list[str], labels: bool, state: str, cache: Path) -> datasets.Dataset:
    # a list of files would be taken apart into shards
    rows = {"folder": folder, "files": tuple(files), "labels": labels, "state": state}
    try:
        table = datasets.Dataset.from_generator(
            _captioned, features=_COLUMNS, cache_dir=str(cache / "datasets"), gen_kwargs=rows
        )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, BadInput | OSError):
            raise error.__cause__ from None
        raise
    assert isinstance(table, datasets.Dataset)
    return table


def _captioned(folder: Path, files: tuple[str, ...], labels: bool, state: str) -> Iterator[dict[str, str | None]]:
    """`datasets` makes its table again when `state` is another."""
    return labelled(folder, files) if labels else captioned(folder, files)
