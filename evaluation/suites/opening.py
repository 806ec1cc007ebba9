"""Suites by name."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from platformdirs import user_cache_dir

from data.source import open_corpus
from data.splits import HELDOUT_STYLE, VALIDATION, VALIDATION_STYLE
from evaluation.suites import emoji
from evaluation.suites.files import read_lines, read_suite
from evaluation.suites.prompts import Prompt, Suite
from training.errors import BadInput


def _ours(name: str) -> Callable[[], Suite]:
    return lambda: Suite(name=name, prompts=read_lines(Path(__file__).with_name(f"{name}.txt")))


SUITES: Mapping[str, Callable[[], Suite]] = {
    # what the model should have learned by heart; and others, to tune on how they are drawn
    "emoji/train-sample": partial(emoji.trained, "emoji/train-sample", 0),
    "emoji/train-tuning": partial(emoji.trained, "emoji/train-tuning", 1),
    # families of which no picture is trained on, and pairs of concept and style that were seen only apart, for tuning
    "emoji/validation": partial(emoji.whole, VALIDATION),
    "emoji/validation-style": partial(emoji.whole, VALIDATION_STYLE),
    # others of that kind, on which nothing is tuned
    "emoji/heldout-style": partial(emoji.whole, HELDOUT_STYLE),
    "attributes": emoji.attributes,
    "free": _ours("free"),
    "lab": _ours("lab"),
}


def open_suite(name: str, limit: int | None = None, cache: Path | None = None) -> Suite:
    """A suite of `SUITES`, a file of prompts, or `SOURCE@SPLIT`; with a `limit`, that many prompts chosen by hash.

    `photos@validation` asks for the first caption of each picture in that split of the source `photos`. What has to be
    prepared for it is kept in `cache`, by default the user's cache folder.

    Raises `BadInput` when it is neither, or when a line of the file cannot be used.
    """
    if limit is not None and limit < 1:
        raise BadInput(f"limit is {limit}: must be 1 or more")
    if name in SUITES:
        return SUITES[name]().first(limit)
    if "@" in name:
        source, _, split = name.rpartition("@")
        return _captions(source, split, cache or Path(user_cache_dir("tessera"))).first(limit)
    if not Path(name).is_file():
        raise BadInput(f"no suite {name!r}: give one of {', '.join(SUITES)}, a file of prompts, or SOURCE@SPLIT")
    return read_suite(Path(name)).first(limit)


def _captions(source: str, split: str, cache: Path) -> Suite:
    corpus = open_corpus(source, cache)
    chosen = [i for i, its in enumerate(corpus.splits) if its == split]
    if not chosen:
        raise BadInput(f"{source}: no split {split!r}; there are {', '.join(dict.fromkeys(corpus.splits))}")
    prompts = [Prompt(text=corpus.captions(i)[0], key=corpus.keys[i]) for i in chosen]
    return Suite(name=f"{corpus.name}@{split}", source=source, prompts=prompts)
