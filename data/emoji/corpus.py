"""The built-in corpus: all emoji, in as many styles as can be fetched."""

import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from data.colors import colors_of
from data.corpus import Corpus
from data.emoji.art import PACKAGES, VERSION, package, render_emoji
from data.emoji.collection import Collection, kept
from data.emoji.keywords import keywords
from data.emoji.names import colored_captions, keyword_captions
from data.emoji.styles import COLLECTED, ORIGINALS, chosen
from data.emoji.table import Emoji, emojis, find
from data.rendered import PictureInfo
from data.store import PRESENT, Store
from training.errors import BadInput, install


class EmojiCorpus(Corpus):
    """3,781 concepts in three original styles, and what seven styles from npm have of them."""

    descriptions = "colors 1, keywords 1"

    def __init__(self, source: str, cache: Path) -> None:
        """`source` is `emoji`, for all styles that can be fetched, or `emoji:` and names of styles
        (`data.emoji.styles`).

        Packages from npm are kept in `cache`. Raises `BadInput` if packages with art are missing.
        """
        for module in PACKAGES.values():
            package(module)
        wanted = chosen(source)
        self.collections = _collections(wanted, cache)
        """The styles from npm, by name."""
        self.styles = (*(style for style in ORIGINALS if wanted is None or style in wanted), *self.collections)
        self.emojis = tuple(emoji for emoji in emojis(self.styles) if self._has(emoji))
        self.name = "emoji"
        packages = [f"{distribution} {version(distribution)}" for distribution in PACKAGES]
        packages += [collection.recipe for collection in self.collections.values()]
        self.recipe = "\n".join([f"drawing {VERSION}", *packages])
        self.keys = [emoji.key for emoji in self.emojis]
        self.splits = [emoji.split for emoji in self.emojis]

    def _has(self, emoji: Emoji) -> bool:
        return emoji.style in ORIGINALS or emoji.codes in self.collections[emoji.style].files

    def render(self, i: int, size: int) -> NDArray[np.uint8]:
        """Picture `i` on white, uint8 (3, size, size). Raises `data.store.Unreadable`."""
        emoji = self.emojis[i]
        if emoji.style in ORIGINALS:
            return render_emoji(emoji.codepoints, emoji.style, size)
        return self.collections[emoji.style].render(emoji.codes, size)

    def captions(self, i: int) -> tuple[str, ...]:
        """Five phrasings, each with the name of the style; `prompt(name, style)` comes first."""
        return self.emojis[i].captions

    def describe(self, i: int, picture: NDArray[np.uint8]) -> tuple[str, ...]:
        """The name with the main colors, and with keywords, each in up to two forms."""
        name, style = self.emojis[i].name, self.emojis[i].style
        return *colored_captions(name, style, colors_of(picture)), *keyword_captions(name, style, keywords(name))

    def group(self, i: int) -> str:
        """A family (a concept with its skin tones and look-alikes) in one style."""
        return f"{self.emojis[i].family}/{self.emojis[i].style}"

    def original_size(self, i: int) -> None:
        """None, because vector art has no size in pixels."""

    def check(self, store: Store[PictureInfo]) -> Mapping[str, str]:
        """Excludes pictures of styles from npm that equal a picture of another split.

        Raises:
            BadInput: equal pictures of the original styles belong to two families.
        """
        rows = np.flatnonzero(store.array("state") == PRESENT)
        _, found, counts = np.unique(store.array("digest")[rows], axis=0, return_inverse=True, return_counts=True)
        doubles = [(find(store.key(int(rows[i]))), int(found[i])) for i in np.flatnonzero(counts[found] > 1)]
        seen: dict[int, Emoji] = {}
        left_out: dict[str, str] = {}
        for emoji, digest in sorted(doubles, key=lambda double: double[0].style in COLLECTED):
            twin = seen.setdefault(digest, emoji)
            if emoji.style in COLLECTED and twin.split != emoji.split:
                left_out[emoji.key] = f"is the same picture as {twin.key}, which is of {twin.split}, not {emoji.split}"
            elif emoji.style in ORIGINALS and twin.family != emoji.family:
                raise BadInput(
                    f"{twin.key} and {emoji.key} are the same picture, but in different families: the art packages are "
                    f"not the versions that the splits were made for; {install('emoji')}"
                )
        return left_out


def _collections(wanted: Sequence[str] | None, cache: Path) -> Mapping[str, Collection]:
    """The styles from npm that are wanted; with None, all that can be fetched."""
    found: dict[str, Collection] = {}
    missing: dict[str, BadInput] = {}
    styles = [style for style in COLLECTED if wanted is None or style in wanted]
    there = all(kept(style, cache).exists() for style in styles)
    for style in tqdm(styles, "emoji from npm", unit="style", disable=there):
        if missing and not kept(style, cache).exists():  # npm would fail again
            missing[style] = next(iter(missing.values()))
            continue
        try:
            found[style] = Collection(style, cache)
        except BadInput as error:
            if wanted is not None:
                raise BadInput(f"{style}: {error}") from None
            missing[style] = error
    if missing:
        warnings.warn(f"emoji: continues without {', '.join(missing)}: {next(iter(missing.values()))}", stacklevel=3)
    return found
