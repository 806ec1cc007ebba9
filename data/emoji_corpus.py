"""The built-in corpus: every emoji, drawn in three hands."""

from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from data.corpus import Corpus
from data.drawn import PictureInfo
from data.emoji_art import PACKAGES, VERSION, draw, package
from data.emoji_table import Emoji, emojis, find
from data.store import THERE, Store
from training.errors import BadInput, install


class EmojiCorpus(Corpus):
    """3,781 concepts in three styles. Raises `BadInput` when the packages with the art are not installed."""

    def __init__(self) -> None:
        for module in PACKAGES.values():
            package(module)
        self.name = "emoji"
        packages = [f"{distribution} {version(distribution)}" for distribution in PACKAGES]
        self.recipe = "\n".join([f"drawing {VERSION}", *packages])
        self.keys = [emoji.key for emoji in emojis()]
        self.splits = [emoji.split for emoji in emojis()]

    def draw(self, i: int, size: int) -> NDArray[np.uint8]:
        """Picture `i` on white, uint8 (3, size, size)."""
        return draw(emojis()[i].codepoints, emojis()[i].style, size)

    def captions(self, i: int) -> tuple[str, ...]:
        """Several phrasings with the style's name in each; `prompt(name, style)` comes first."""
        return emojis()[i].captions

    def group(self, i: int) -> str:
        """A family in one style: a concept with its skin tones."""
        return f"{emojis()[i].family}/{emojis()[i].style}"

    def original_size(self, i: int) -> None:
        """None: vector art has no size in pixels."""

    def check(self, store: Store[PictureInfo]) -> None:
        """Raises `BadInput` for equal pictures in two families, which could stand on both sides of a split."""
        seen: dict[bytes, Emoji] = {}
        for row in np.flatnonzero(store.array("state") == THERE):
            key = store.key(int(row))
            emoji = find(key)
            twin = seen.setdefault(store.array("digest")[row].tobytes(), emoji)
            if twin.family != emoji.family:
                raise BadInput(
                    f"{twin.key} and {key} are the same picture, but the splits take them for different ones: "
                    f"for the art that they were made for, {install('emoji')}"
                )
