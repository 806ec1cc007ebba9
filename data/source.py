"""Opens captioned pictures from any source: the built-in corpus, a folder, parquet, tar or the Hugging Face Hub."""

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from platformdirs import user_cache_dir

from data.captioned import CaptionedImages, RenderedImages
from data.corpus import SOURCES, Corpus
from data.emoji.corpus import EmojiCorpus
from data.files import visible_files
from data.folder import FolderCorpus, list_files
from data.metadata import TABLES, caption_files, is_table
from data.parquet import ParquetCorpus
from data.picture import SUFFIXES
from data.rendered import PictureInfo, rendered
from data.scenes.corpus import ScenesCorpus
from data.splits import VALIDATION, fraction
from data.store import Store
from data.tar import TarCorpus
from training.errors import BadInput, printable
from training.hub import fetched
from training.redact import redacted

_NAMED = 10
"""Most pictures that a warning names."""

_BUILT_IN: Mapping[str, Callable[[str, Path], Corpus]] = {"emoji": EmojiCorpus, "scenes": ScenesCorpus}
_OF_FILES: Mapping[str, Callable[..., Corpus]] = {".parquet": ParquetCorpus, ".tar": TarCorpus}
"""Corpora in files that hold many pictures, by suffix."""
_HUB_FILES = [
    f"*{end}" for suffix in (*_OF_FILES, *TABLES, *sorted(SUFFIXES), ".txt") for end in (suffix, suffix.upper())
]
"""Which files of a data set to download. The Hub's patterns distinguish `.JPG` from `.jpg`."""


def open_source(
    source: str | Path,
    *,
    size: int,
    split: str | None = None,
    cache: str | Path | None = None,
    limit: int | None = None,
    strict: bool = False,
) -> CaptionedImages:
    """Opens captioned pictures at `size` pixels. Renders them first, unless that was done before.

    Args:
        source: one of
            - `"emoji"`, the built-in corpus in all styles that this machine can get, or `"emoji:noto,fluent-flat"`;
            - `"scenes"`, 50,000 pictures that combine emoji, or the first so many, `"scenes:20000"` (`data.scenes`);
            - a folder of pictures with a caption table, or a text file beside each picture (`data.metadata`);
            - `"labels:FOLDER"`, a folder of pictures in folders, whose names are the captions;
            - a parquet file or a folder of them, with columns `image` and `text`, one or a list (`data.parquet`);
            - a tar file or a folder of them, as WebDataset writes them (`data.tar`);
            - `"hf://datasets/owner/name@commit"`, one of these on the Hugging Face Hub; all of it is downloaded;
            - several of these, joined: `"emoji+scenes:20000"`;
            - `"NAME:REST"`, a source registered as NAME in `data.corpus.SOURCES`.
        size: width and height, 16 to 1024.
        split: one of the source's splits; None means all pictures.
        cache: folder for rendered pictures; by default the user's cache folder.
        limit: most pictures to open of a source. They are chosen by a hash of their keys, and no others are rendered.
        strict: raise if pictures cannot be used, instead of leaving them out with a warning that names them.

    Raises:
        BadInput: the source, the split or another value cannot be used.
    """
    if not 16 <= size <= 1024:
        raise BadInput(f"size is {size}: pictures can be 16 to 1024 pixels wide")
    if limit is not None and limit < 1:
        raise BadInput(f"limit is {limit}: must be 1 or more")
    if "+" in str(source) and not Path(source).exists():
        opened = partial(open_source, size=size, split=split, cache=cache, limit=limit, strict=strict)
        return CaptionedImages([part for one in str(source).split("+") for part in opened(one).parts])
    folder = Path(cache) if cache is not None else Path(user_cache_dir("tessera"))
    corpus = open_corpus(source, folder)
    positions = _choose(corpus, split, limit)
    store, rows = _render(corpus, positions, size, folder, limit)
    name = f"{corpus.name}-{size}/{split or 'all'}" + (f"/first-{limit}" if limit else "")
    pictures = RenderedImages(name, corpus, positions, store, rows)
    _report(name, {**corpus.left_out, **pictures.skipped}, strict)
    if not len(pictures):
        raise BadInput(f"{source}: none of the pictures can be read")
    return CaptionedImages([pictures])


def open_corpus(source: str | Path, cache: Path, *, captionless: bool = False) -> Corpus:
    """The corpus that `source` names (see `open_source`). Renders nothing. Raises `BadInput`.

    With `captionless`, a corpus of a folder, of parquet or of tar files includes pictures without a caption.
    """
    name, colon, rest = str(source).partition(":")
    if name in _BUILT_IN:
        return _BUILT_IN[name](str(source), cache)
    if colon and name == "hf":
        return _on_the_hub(rest, cache, captionless=captionless)
    if colon and name in SOURCES:
        return SOURCES[name](rest, cache)
    path = _existing(source)
    if path.suffix in _OF_FILES:
        return _OF_FILES[path.suffix](path, cache, captionless=captionless)
    if path.is_dir():
        suffix = _suffix_of_tables(path)
        _require_one_form(path, suffix)
        return (_OF_FILES[suffix] if suffix else FolderCorpus)(path, cache, captionless=captionless)
    raise BadInput(f"{source}: not a source of pictures; give {_known()}")


@SOURCES.register("labels")
def _labels(folder: str, cache: Path) -> Corpus:
    if not _existing(folder).is_dir():
        raise BadInput(f"labels:{folder}: must be a folder")
    return FolderCorpus(Path(folder), cache, labels=True)


@SOURCES.register("hf")
def _on_the_hub(place: str, cache: Path, *, captionless: bool = False) -> Corpus:
    folder, name = fetched(f"hf:{place}", _HUB_FILES, data=True)
    corpus = open_corpus(folder, cache, captionless=captionless)
    corpus.name = name.split("@")[0].rpartition("/")[2]
    return corpus


def _existing(path: str | Path) -> Path:
    if not Path(path).exists():
        raise BadInput(f"{path}: no such file or folder; give {_known()}")
    return Path(path)


def _known() -> str:
    others = ", ".join(f"{name}:" for name in SOURCES.kinds)
    return f'"emoji", "scenes", a folder of pictures, a parquet or tar file, or a source that starts with {others}'


def identity(source: str) -> dict[str, str]:
    """What is written down of a source: its name, without private paths, and a hash of where it is.

    A source whose pictures change stays the same source, and so does one on the Hub at another commit. A folder or a
    file may be given by any path to it.
    """
    place = hashlib.blake2b(_place(source).encode(), digest_size=8).hexdigest()
    return {"source": redacted(source), "id": place}


def _place(source: str) -> str:
    if "+" in source and not Path(source).exists():
        return "+".join(map(_place, source.split("+")))
    if source.startswith("labels:"):  # other captions of the same pictures
        return "labels:" + _place(source.removeprefix("labels:"))
    path = Path(source)
    if path.exists() and source.partition(":")[0] not in _BUILT_IN:
        return str(path.resolve())
    return source.partition("@")[0]


def is_captioned(folder: Path) -> bool:
    """Whether a folder of pictures has captions. Training needs them; a folder to look at or to score does not."""
    return bool(_suffix_of_tables(folder)) or bool(caption_files(list_files(folder)))


def _suffix_of_tables(folder: Path) -> str | None:
    """The suffix of the files that hold a folder's pictures and captions; None if each picture is its own file."""
    names = [file.name for file in visible_files(folder)]
    if any(map(is_table, names)):
        return None
    return next((suffix for suffix in _OF_FILES if any(name.endswith(suffix) for name in names)), None)


def _require_one_form(folder: Path, suffix: str | None) -> None:
    """Raises `BadInput` if a folder with files of `suffix` has other captioned pictures too, which would be ignored."""
    if suffix is None:
        return
    others = [file.name for file in visible_files(folder) if file.suffix in _OF_FILES.keys() - {suffix}]
    if others := others or caption_files(list_files(folder)):
        raise BadInput(
            f"{folder}: has both {suffix} files and {others[0]}; give each kind of file a folder of its own, and join "
            "them with +"
        )


def _choose(corpus: Corpus, split: str | None, limit: int | None) -> list[int]:
    if not corpus.keys:
        raise BadInput(f"{corpus.name}: no picture has a caption")
    if split == VALIDATION and len(corpus.keys) == 1:
        raise BadInput(f"{corpus.name}: has one picture; must have two or more, to train on and to validate with")
    if split is not None and split not in corpus.splits:
        raise BadInput(f"{corpus.name}: no split {split!r}; there are {', '.join(dict.fromkeys(corpus.splits))}")
    if split == VALIDATION and corpus.num_validation:
        warnings.warn(
            f"{corpus.name}: has no split 'validation', so {corpus.num_validation:,} of the training pictures are used "
            "for it, chosen by a hash of their names", stacklevel=3,
        )  # fmt: skip
    positions = [position for position, its in enumerate(corpus.splits) if split in (None, its)]
    if limit is None:
        return positions
    return sorted(positions, key=lambda position: fraction(corpus.keys[position]))[:limit]


def _render(
    corpus: Corpus, positions: Sequence[int], size: int, cache: Path, limit: int | None
) -> tuple[Store[PictureInfo], Sequence[int]]:
    """A store of rendered pictures, and the rows of `positions` in it.

    It has all pictures of the corpus; or only those at `positions`, if there is a limit and no store of all exists.
    """
    keys, rows = corpus.keys, positions
    wanted: Sequence[int] = range(len(keys))
    folder = _folder(corpus, keys, size, cache)
    if limit is not None and not folder.exists():
        keys, wanted, rows = [corpus.keys[position] for position in positions], positions, range(len(positions))
        folder = _folder(corpus, keys, size, cache)
    return rendered(
        folder, size, keys, wanted, partial(corpus.render, size=size), label=f"{printable(corpus.name)} at {size} px"
    ), rows


def _folder(corpus: Corpus, keys: Sequence[str], size: int, cache: Path) -> Path:
    """The folder of the store, named after its content, so that changed pictures get a new folder."""
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
