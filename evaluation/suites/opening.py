"""Open a suite by its name, from a file of prompts, or from the captions of a source of pictures."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from platformdirs import user_cache_dir

from data.scenes.scene import HELDOUT_COMBINATION
from data.source import open_corpus
from data.splits import HELDOUT_STYLE, TRAIN, VALIDATION, VALIDATION_STYLE
from evaluation.suites import emoji
from evaluation.suites.files import read_lines, read_suite
from evaluation.suites.prompts import Prompt, Suite
from evaluation.suites.scenes import low_scenes, scenes
from training.errors import BadInput


def _shipped(name: str) -> Callable[[Path], Suite]:
    return lambda cache: Suite(name=name, prompts=read_lines(Path(__file__).with_name(f"{name}.txt")))


def _of_emoji(suite: Callable[..., Suite], *arguments: object) -> Callable[[Path], Suite]:
    return lambda cache: suite(*arguments)


SUITES: Mapping[str, Callable[[Path], Suite]] = {
    # training pictures: a sample to measure memorisation, and another one to tune sampling options on
    "emoji/train-sample": _of_emoji(emoji.train_sample, "emoji/train-sample", 0),
    "emoji/train-tuning": _of_emoji(emoji.train_sample, "emoji/train-tuning", 1),
    # for tuning: families without any training picture, and concepts and styles that were trained on only separately
    "emoji/validation": _of_emoji(emoji.whole_split, VALIDATION),
    "emoji/validation-style": _of_emoji(emoji.whole_split, VALIDATION_STYLE),
    # for final results, never for tuning: other concepts and styles that were trained on only separately
    "emoji/heldout-style": _of_emoji(emoji.whole_split, HELDOUT_STYLE),
    "attributes": _of_emoji(emoji.attributes),
    # combinations of things that were trained on, others for tuning, others for final results; and ends of pictures
    "scenes/train-sample": partial(scenes, "scenes/train-sample", TRAIN),
    "scenes/validation": partial(scenes, "scenes/validation", VALIDATION),
    "scenes/heldout-combination": partial(scenes, "scenes/heldout-combination", HELDOUT_COMBINATION),
    "scenes/low": partial(low_scenes, "scenes/low", TRAIN),
    "free": _shipped("free"),
    "lab": _shipped("lab"),
}


def open_suite(name: str, limit: int | None = None, cache: Path | None = None) -> Suite:
    """Open a suite of `SUITES`, a file of prompts, or `SOURCE@SPLIT`; with a `limit`, that many prompts chosen by hash.

    The prompts of `photos@validation` are the first captions of the pictures in that split of the source `photos`. Data
    prepared for them is kept in `cache`, by default the user's cache folder.

    Raises `BadInput` for any other name, for a line of a file that cannot be used, and for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise BadInput(f"limit is {limit}: must be 1 or more")
    folder = cache or Path(user_cache_dir("tessera"))
    if name in SUITES:
        return SUITES[name](folder).first(limit)
    if "@" in name:
        source, _, split = name.rpartition("@")
        return _captions(source, split, folder).first(limit)
    if not Path(name).is_file():
        raise BadInput(f"no suite {name!r}: give one of {', '.join(SUITES)}, a file of prompts, or SOURCE@SPLIT")
    return read_suite(Path(name)).first(limit)


def _captions(source: str, split: str, cache: Path) -> Suite:
    corpus = open_corpus(source, cache)
    chosen = [i for i, name in enumerate(corpus.splits) if name == split]
    if not chosen:
        raise BadInput(f"{source}: no split {split!r}; there are {', '.join(dict.fromkeys(corpus.splits))}")
    prompts = [Prompt(text=corpus.captions(i)[0], key=corpus.keys[i]) for i in chosen]
    return Suite(name=f"{corpus.name}@{split}", source=source, prompts=prompts)
