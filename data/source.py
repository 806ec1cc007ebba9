"""The one way to captioned pictures, whatever they come from."""

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from platformdirs import user_cache_dir

from data.captioned import CaptionedImages
from data.corpus import SOURCES, Corpus
from data.emoji.corpus import EmojiCorpus
from data.files import visible_files
from data.folder import FolderCorpus, list_files
from data.metadata import TABLES, caption_files, is_table
from data.parquet import ParquetCorpus
from data.picture import SUFFIXES
from data.rendered import PictureInfo, rendered
from data.splits import VALIDATION, fraction
from data.store import Store
from data.tar import TarCorpus
from training.errors import BadInput, printable
from training.hub import fetched

_NAMED = 10

_OF_FILES: Mapping[str, Callable[[Path, Path], Corpus]] = {".parquet": ParquetCorpus, ".tar": TarCorpus}
"""Of files that hold many pictures, by how their names end."""
_HUB_FILES = [
    f"*{end}" for suffix in (*_OF_FILES, *TABLES, *sorted(SUFFIXES), ".txt") for end in (suffix, suffix.upper())
]
"""What of a data set is downloaded; the Hub tells `.JPG` from `.jpg`."""


def open_source(
    source: str | Path,
    *,
    size: int,
    split: str | None = None,
    cache: str | Path | None = None,
    limit: int | None = None,
    strict: bool = False,
) -> CaptionedImages:
    """Opens captioned pictures at `size` pixels; draws them first where that has not been done yet.

    `source` is

    - `"emoji"`, the built-in corpus in all hands that this machine can have, or in some: `"emoji:noto,fluent-flat"`;
    - a folder of pictures with a table of captions, or a text beside each (`data.metadata`);
    - `"labels:FOLDER"`, a folder of pictures in folders with a label for a name, which is their caption;
    - a parquet file, or a folder of them, with columns `image` and `text` (`data.parquet`);
    - a tar file, or a folder of them, as WebDataset has them (`data.tar`);
    - `"hf://datasets/owner/name@commit"`, one of these on the Hugging Face Hub, which is downloaded whole;
    - `"NAME:REST"`, whatever is registered as NAME in `data.corpus.SOURCES`.

    `split` names one of the source's splits; None is all of them together. With a `limit`, there are at most that many
    pictures, always the same ones in an order fixed by hash, and no others are drawn. Drawn pictures are kept in
    `cache`, by default the user's cache folder.

    Pictures that cannot be read are left out, with a warning that names them; `strict` raises instead. Raises
    `BadInput` for a source, a split or a value that cannot be used.
    """
    if not 16 <= size <= 1024:
        raise BadInput(f"size is {size}: pictures can be 16 to 1024 pixels wide")
    if limit is not None and limit < 1:
        raise BadInput(f"limit is {limit}: must be 1 or more")
    folder = Path(cache) if cache is not None else Path(user_cache_dir("tessera"))
    corpus = open_corpus(source, folder)
    positions = _choose(corpus, split, limit)
    store, rows = _rendered_store(corpus, positions, size, folder, limit)
    name = f"{corpus.name}-{size}/{split or 'all'}" + (f"/first-{limit}" if limit else "")
    pictures = CaptionedImages(name, corpus, positions, store, rows)
    _report(name, {**corpus.left_out, **pictures.skipped}, strict)
    if not len(pictures):
        raise BadInput(f"{source}: not one of the pictures can be read")
    return pictures


def open_corpus(source: str | Path, cache: Path) -> Corpus:
    """The corpus that `source` names (see `open_source`), with no picture drawn. Raises `BadInput`."""
    name, colon, rest = str(source).partition(":")
    if name == "emoji":
        return EmojiCorpus(str(source), cache)
    if colon and name in SOURCES:
        return SOURCES[name](rest, cache)
    path = _there(source)
    if path.suffix in _OF_FILES:
        return _OF_FILES[path.suffix](path, cache)
    if path.is_dir():
        suffix = _suffix_of_tables(path)
        return _OF_FILES[suffix](path, cache) if suffix else FolderCorpus(path, cache)
    raise BadInput(f"{source}: not a source of pictures; give {_known()}")


@SOURCES.register("labels")
def _labels(folder: str, cache: Path) -> Corpus:
    if not _there(folder).is_dir():
        raise BadInput(f"labels:{folder}: must be a folder")
    return FolderCorpus(Path(folder), cache, labels=True)


@SOURCES.register("hf")
def _on_the_hub(place: str, cache: Path) -> Corpus:
    folder, name = fetched(f"hf:{place}", _HUB_FILES, data=True)
    corpus = open_corpus(folder, cache)
    corpus.name = name.split("@")[0].rpartition("/")[2]
    return corpus


def _there(path: str | Path) -> Path:
    if not Path(path).exists():
        raise BadInput(f"{path}: no such file or folder; give {_known()}")
    return Path(path)


def _known() -> str:
    others = ", ".join(f"{name}:" for name in SOURCES.kinds)
    return f'"emoji", a folder of pictures, a parquet or tar file, or what begins with one of {others}'


def is_captioned(folder: Path) -> bool:
    """Whether a folder of pictures says what they show, as a source must; others can only be looked at."""
    return bool(_suffix_of_tables(folder)) or bool(caption_files(list_files(folder)))


def _suffix_of_tables(folder: Path) -> str | None:
    """What the files end in that hold the pictures of a folder, and its captions; None where each is a file."""
    names = [file.name for file in visible_files(folder)]
    if any(map(is_table, names)):
        return None
    return next((suffix for suffix in _OF_FILES if any(name.endswith(suffix) for name in names)), None)


def _choose(corpus: Corpus, split: str | None, limit: int | None) -> list[int]:
    if not corpus.keys:
        raise BadInput(f"{corpus.name}: there is not one picture with a caption")
    if split == VALIDATION and len(corpus.keys) == 1:
        raise BadInput(f"{corpus.name}: has one picture; two are the least, one to train on and one to validate with")
    if split is not None and split not in corpus.splits:
        raise BadInput(f"{corpus.name}: no split {split!r}; there are {', '.join(dict.fromkeys(corpus.splits))}")
    if split == VALIDATION and corpus.set_aside:
        warnings.warn(
            f"{corpus.name}: states no pictures for validation, so {corpus.set_aside:,} of the training pictures are "
            "set aside for it, by a hash of their names", stacklevel=3,
        )  # fmt: skip
    positions = [position for position, its in enumerate(corpus.splits) if split in (None, its)]
    if limit is None:
        return positions
    return sorted(positions, key=lambda position: fraction(corpus.keys[position]))[:limit]


def _rendered_store(
    corpus: Corpus, positions: Sequence[int], size: int, cache: Path, limit: int | None
) -> tuple[Store[PictureInfo], Sequence[int]]:
    """All of the corpus, or only `positions` if there is a limit and the whole has not been drawn before; and the rows
    of `positions` in it."""
    keys, rows = corpus.keys, positions
    jobs: Sequence[int] = range(len(keys))
    folder = _folder(corpus, keys, size, cache)
    if limit is not None and not folder.exists():
        keys, jobs, rows = [corpus.keys[position] for position in positions], positions, range(len(positions))
        folder = _folder(corpus, keys, size, cache)
    return rendered(
        folder, size, keys, jobs, partial(corpus.render, size=size), label=f"{printable(corpus.name)} at {size} px"
    ), rows


def _folder(corpus: Corpus, keys: Sequence[str], size: int, cache: Path) -> Path:
    """Named by what is in it, so that changed pictures come to stand beside the old ones."""
    digest = hashlib.blake2b("\n".join([corpus.recipe, *keys]).encode(), digest_size=4).hexdigest()
    return cache / f"{corpus.name}-{size}px-{len(keys)}-{digest}"


def _report(name: str, missing: Mapping[str, str], strict: bool) -> None:
    if not missing:
        return
    named = "; ".join(f"{key} ({why})" for key, why in islice(missing.items(), _NAMED))
    more = f"; and {len(missing) - _NAMED:,} more, which python -m data.inspect lists" if len(missing) > _NAMED else ""
    message = f"{name}: {len(missing):,} unusable picture{'s' * (len(missing) > 1)}: {named}{more}"
    if strict:
        raise BadInput(message)
    warnings.warn(message, stacklevel=3)
