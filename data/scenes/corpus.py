"""Scenes as a corpus: the source `scenes`, or `scenes:NUMBER` for the first so many."""

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
"""Raise it when a scene is changed to show or to look like something else, so that kept pictures are made again."""

NUMBER = 50_000
"""Of scenes, where nobody says."""

_SEED = 0


class ScenesCorpus(Corpus):
    """Scenes of emoji in all styles that can be had. `scene(i)` is what picture `i` shows."""

    def __init__(self, source: str, cache: Path) -> None:
        """`source` is `scenes`, which are 50,000, or `scenes:NUMBER`. Raises `BadInput`, also where there is no art."""
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
        """Scene `i`, uint8 (3, size, size), white below a low one. Raises `data.store.Unreadable`."""
        sprites = self._sprites.setdefault(size, Sprites(self._collections, max(128, size)))
        return render(self.scenes[i], layout(self.scenes[i], _SEED, i), sprites, size)

    def captions(self, i: int) -> tuple[str, ...]:
        """The scene in several forms; `data.scenes.phrases.prompt` comes first."""
        return captions(self.scenes[i])

    def height(self, i: int) -> float:
        """Of scene `i`, in widths: 1/8 to 1."""
        return self.scenes[i].eighths / EIGHTHS

    def original_size(self, i: int) -> None:
        """None: vector art has no size in pixels."""


def things(emoji: EmojiCorpus) -> Mapping[str, Sequence[Thing]]:
    """What can be in a scene, by style: what is trained on in that style, and can be told from every background."""

    def fit(thing: Thing, style: str) -> bool:
        key = f"{thing.codes}/{style}"
        there = style in ORIGINALS or thing.codes in emoji.collections[style].files
        return there and key not in UNFIT and find(key).split == TRAIN

    return {style: [thing for thing in THINGS if fit(thing, style)] for style in emoji.styles}
