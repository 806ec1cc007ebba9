"""A folder of pictures, with captions in a table or in text files beside them (`data.metadata`)."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from data.corpus import Corpus
from data.files import content_hashes, visible_files
from data.metadata import caption_files, captioned, is_picture, is_table, labelled
from data.picture import VERSION
from data.splits import assign_splits
from training.errors import BadInput

if TYPE_CHECKING:
    from datasets import Dataset


class FolderCorpus(Corpus):
    """A folder of pictures with their captions."""

    def __init__(self, folder: Path, cache: Path, *, labels: bool = False, captionless: bool = False) -> None:
        """Reads the captions into a memory-mapped table under `cache`. Reads them again whenever a file has changed.

        With `labels`, the caption of a picture is the name of its folder. With `captionless`, pictures without a
        caption are included.

        Raises:
            BadInput: captions are missing or cannot be used. The message names the row.
        """
        self._folder = folder
        self.name = folder.resolve().name
        files = list_files(folder)
        hashes = dict(zip(files, content_hashes([folder / file for file in files], cache), strict=True))
        # all names are part of it, because rows are checked against the files that exist
        state = repr((labels, captionless, files, [hashes[file] for file in caption_files(files)]))
        table = _read(folder, files, labels, captionless, hashlib.blake2b(state.encode()).hexdigest(), cache)
        self.keys, self.texts = table["file"][:], table["text"]
        # a table may list files without a picture's suffix, or in hidden folders
        others = [key for key in self.keys if key not in hashes]
        hashes |= dict(zip(others, content_hashes([folder / key for key in others], cache), strict=True))
        self.recipe = hashlib.blake2b(repr((VERSION, [(key, hashes[key]) for key in self.keys])).encode()).hexdigest()
        self.splits, self.num_validation = assign_splits(self.keys, table["split"][:])
        listed = set(self.keys)
        self.left_out = {file: "has no caption" for file in files if is_picture(file) and file not in listed}

    def file(self, i: int) -> Path:
        """The path of picture `i`."""
        return self._folder / self.keys[i]


def list_files(folder: Path) -> list[str]:
    """Names of pictures, tables and text files below `folder`, relative to it, in a fixed order."""
    found = (file.relative_to(folder).as_posix() for file in visible_files(folder))
    return [file for file in found if is_table(file) or is_picture(file) or file.endswith(".txt")]


def _read(folder: Path, files: list[str], labels: bool, captionless: bool, state: str, cache: Path) -> "Dataset":
    import datasets
    from datasets.exceptions import DatasetGenerationError

    columns = datasets.Features({name: datasets.Value("string") for name in ("file", "text", "split")})
    # as a list, `datasets` would split the files into shards
    rows = {"folder": folder, "files": tuple(files), "labels": labels, "captionless": captionless, "state": state}
    try:
        table = datasets.Dataset.from_generator(
            _captioned, features=columns, cache_dir=str(cache / "datasets"), gen_kwargs=rows
        )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, BadInput | OSError):
            raise error.__cause__ from None
        raise
    assert isinstance(table, datasets.Dataset)
    return table


def _captioned(
    folder: Path, files: tuple[str, ...], labels: bool, captionless: bool, state: str
) -> Iterator[dict[str, str | None]]:
    """The rows of the table. `state` is unused, but `datasets` builds its table again when an argument changes."""
    return labelled(folder, files) if labels else captioned(folder, files, captionless=captionless)
