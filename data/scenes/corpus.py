"""Scenes as a corpus: the source `scenes`, or `scenes:NUMBER` for the first NUMBER of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.corpus import Corpus
from data.emoji.corpus import EmojiCorpus
from data.emoji.styles import ORIGINALS
from data.emoji.table import find
from data.scenes.layout import layout
from data.scenes.phrases import captions
from data.scenes.render import render
from data.scenes.scene import EIGHTHS, scene
from data.scenes.sprites import Sprites
from data.scenes.vocabulary import THINGS, UNFIT, Thing
from data.splits import TRAIN
from training.errors import BadInput

VERSION = 1
"""Increase it whenever a scene would look different, so that cached pictures are rendered again."""

NUMBER = 50_000
"""Number of scenes by default."""

_SEED = 0


class ScenesCorpus(Corpus):
    """Scenes of emoji in all styles that are installed. Picture `i` shows `scenes[i]`."""

    def __init__(self, source: str, cache: Path) -> None:
        """`source` is `scenes`, which means 50,000, or `scenes:NUMBER`. Raises `BadInput`, also without emoji art."""
        _, colon, number = source.partition(":")
        if colon and not (number.isascii() and number.isdigit() and 0 < int(number) <= 10**6):
            raise BadInput(f"{source}: must be a number of scenes from 1 to 1,000,000")
        emoji = EmojiCorpus("emoji", cache)
        self._collections = emoji.collections
        self._sprites: dict[int, Sprites] = {}
        self.things = things(emoji)
        self.name = "scenes"
        self.recipe = f"scenes {VERSION} of {', '.join(self.things)}\n{emoji.recipe}"
        self.scenes = [scene(_SEED, i, self.things) for i in range(int(number or NUMBER))]
        self.keys = [f"scene-{i}" for i in range(len(self.scenes))]
        self.splits = [one.split for one in self.scenes]

    def render(self, i: int, size: int) -> NDArray[np.uint8]:
        """Renders scene `i`, uint8 (3, size, size), white below its height. Raises `data.store.Unreadable`."""
        sprites = self._sprites.setdefault(size, Sprites(self._collections, max(128, size)))
        return render(self.scenes[i], layout(self.scenes[i], _SEED, i), sprites, size)

    def captions(self, i: int) -> tuple[str, ...]:
        """The captions of scene `i`. The first one is its prompt; see `data.scenes.phrases`."""
        return captions(self.scenes[i])

    def height(self, i: int) -> float:
        """The height of scene `i` in widths: 1/8 to 1."""
        return self.scenes[i].eighths / EIGHTHS

    def original_size(self, i: int) -> None:
        """None: vector art has no size in pixels."""


def things(emoji: EmojiCorpus) -> Mapping[str, Sequence[Thing]]:
    """The things that scenes may show, by style: those in its training split that no background hides."""

    def fit(thing: Thing, style: str) -> bool:
        key = f"{thing.codes}/{style}"
        there = style in ORIGINALS or thing.codes in emoji.collections[style].files
        return there and key not in UNFIT and find(key).split == TRAIN

    return {style: [thing for thing in THINGS if fit(thing, style)] for style in emoji.styles}
