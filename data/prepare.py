"""Cleans captioned pictures: leaves out copies and unusable pictures, and optionally writes captions with a model.

    python -m data.prepare photos/ --out clean/

`clean/` is a source like any other: parquet shards with the original files, their captions and splits. Its
`left-out.jsonl` says why each of the other pictures is missing. After an interruption, the same command continues.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from platformdirs import user_cache_dir

from data.cleaning.captioner import CaptionerOptions, recaptioned
from data.cleaning.measure import measured
from data.cleaning.rules import UNCAPTIONED, LeftOut, Rules, copies, faults, is_held_out, usable
from data.cleaning.shards import Row, write_shards
from data.corpus import Corpus
from data.source import identity, open_corpus
from training.cli import command
from training.config import require
from training.errors import BadInput, printable
from training.files import claim, locked, put, remove, require_name, write_json, write_text
from training.strict_json import read_json

_KIND = "prepared pictures"
_LEFT_OUT, _SOURCE = "left-out.jsonl", "source.json"
_FILES = r"pictures-\d+\.parquet|left-out\.jsonl|source\.json"
"""Names of what is written."""


@dataclass(kw_only=True)
class PrepareOptions(Rules, CaptionerOptions):
    """Leaves out copies and unusable pictures of a source, and writes the others as a new source."""

    positional: ClassVar = ("source",)

    source: str
    """A folder of pictures with captions, a parquet or tar file, `labels:FOLDER`, or `hf://datasets/owner/name`."""
    out: Path
    """Folder to write."""
    processes: int = os.cpu_count() or 1
    """Processes that read and measure pictures."""
    cache: Path | None = None
    """Folder for measurements and written captions; by default the user's cache folder."""

    def __post_init__(self) -> None:
        Rules.__post_init__(self)
        CaptionerOptions.__post_init__(self)
        require(self, "processes", self.processes >= 1, "1 or more")


def main(options: PrepareOptions) -> None:
    """Writes the folder and prints how many pictures were kept and left out."""
    cache = options.cache or Path(user_cache_dir("tessera"))
    _require_outside(options)
    corpus = open_corpus(options.source, cache, captionless=True)
    if type(corpus).file is Corpus.file:
        raise BadInput(f"{options.source}: has no picture files to clean; its pictures are rendered")
    with locked(options.out):
        claim(options.out, _KIND, replacing=_FILES)
        _require_same_source(options)
        captions = [corpus.captions(i) for i in range(len(corpus.keys))]
        kept, left_out = _select(corpus, captions, options, cache / "prepare")
        if not kept:
            why = ", ".join(f"{count:,} {name}" for name, count in _counted(left_out).items())
            raise BadInput(f"{options.source}: not one picture would be kept ({why})")
        _write(options, corpus, kept, left_out)
    for line in summary(corpus, kept, left_out):
        print(printable(line))
    had = sum(len(captions[i]) for i in kept)
    print(f"{'captions':26} {sum(map(len, kept.values())):>11,}, from {had:,}")
    print(f"{'written to':26} {options.out}")


def _require_outside(options: PrepareOptions) -> None:
    """Raises `BadInput` if one of the new folder and the source would contain the other, or the folder has no name."""
    require_name(options.out)
    source, out = Path(options.source.removeprefix("labels:")).resolve(), options.out.resolve()
    if out.is_relative_to(source) or source.is_relative_to(out):
        raise BadInput(f"{options.out}: must be outside of the source {options.source}, and the source outside of it")


def _require_same_source(options: PrepareOptions) -> None:
    """Raises `BadInput` if the folder holds pictures that were prepared from another source. What an older version did
    not write down counts as equal."""
    file = options.out / _SOURCE
    there, here = read_json(file) if file.exists() else {}, identity(options.source)
    if there.get("id", here["id"]) != here["id"]:
        raise BadInput(
            f"{options.out}: holds pictures prepared from {there.get('source')!r}, which is another source than "
            f"{options.source!r}; choose another --out"
        )


def _select(
    corpus: Corpus, captions: Sequence[tuple[str, ...]], options: PrepareOptions, cache: Path
) -> tuple[dict[int, tuple[str, ...]], dict[int, LeftOut]]:
    """The captions of the pictures to keep, and the reasons why the others are left out, by position."""
    measures = measured(corpus, cache, options.processes)
    left_out = faults(measures, captions, options, captionless=options.recaption is not None)
    left_out |= copies(corpus, measures, options, left_out)
    rest = [i for i in range(len(corpus.keys)) if i not in left_out]
    written = recaptioned(corpus, rest, options, cache) if options.recaption else [None] * len(rest)
    kept: dict[int, tuple[str, ...]] = {}
    for i, caption in zip(rest, written, strict=True):
        own = captions[i] if caption is None or options.keep_captions else ()
        kept[i] = usable([*own, caption or ""], options.max_caption)
        if not kept[i]:
            del kept[i]
            left_out[i] = LeftOut(UNCAPTIONED, "the model wrote no usable one")
    return kept, left_out


def _write(
    options: PrepareOptions, corpus: Corpus, kept: Mapping[int, tuple[str, ...]], left_out: Mapping[int, LeftOut]
) -> None:
    """Writes a folder with the kept pictures and the list of the others, and replaces `out` when it is complete."""
    out = options.out
    part = out.with_name(f".{out.name}.part")
    remove(part)  # left by a run that was killed
    claim(part, _KIND)
    write_shards(part, _rows(corpus, kept))
    write_text(part / _LEFT_OUT, "".join(json.dumps(line) + "\n" for line in _lines(corpus, left_out)))
    write_json(part / _SOURCE, identity(options.source))
    put(part, out)


def _rows(corpus: Corpus, kept: Mapping[int, tuple[str, ...]]) -> Iterator[Row]:
    for i, captions in kept.items():
        file = corpus.file(i)
        content = file.read_bytes() if isinstance(file, Path) else file
        yield Row(corpus.keys[i], content, captions, corpus.splits[i])


def _lines(corpus: Corpus, left_out: Mapping[int, LeftOut]) -> Iterator[dict[str, str]]:
    """Yields the lines of `left-out.jsonl`: in the order of the corpus, then pictures that the corpus left out."""
    for i, one in sorted(left_out.items()):
        line = {"key": corpus.keys[i], "why": one.why}
        if one.detail:
            line["detail"] = one.detail
        if one.copy_of is not None:
            line |= {"copy_of": corpus.keys[one.copy_of], "its_split": corpus.splits[one.copy_of]}
        yield line
    for key, why in corpus.left_out.items():
        yield {"key": key, "why": why}


def summary(corpus: Corpus, kept: Mapping[int, tuple[str, ...]], left_out: Mapping[int, LeftOut]) -> Iterator[str]:
    """Yields the lines of the printed table."""

    def line(name: str, count: int, more: str = "") -> str:
        return f"{name:26} {count:>11,}{more}"

    yield line("pictures", len(corpus.keys) + len(corpus.left_out), f" in {corpus.name}")
    splits = Counter(corpus.splits[i] for i in kept)
    yield line("kept", len(kept), f" ({', '.join(f'{split} {count:,}' for split, count in splits.items())})")
    for name, count in (_counted(left_out) + Counter(corpus.left_out.values())).items():
        yield line(f"left out: {name}", count)
    leaks = sum(
        is_held_out(corpus, one.copy_of) and not is_held_out(corpus, i)
        for i, one in left_out.items()
        if one.copy_of is not None
    )
    if leaks:
        yield line("  copies of held-out ones", leaks, " in train")


def _counted(left_out: Mapping[int, LeftOut]) -> Counter[str]:
    return Counter(one.why for one in left_out.values())


if __name__ == "__main__":
    command(main, PrepareOptions)
