"""Finds the concept that a drawing shows, from its name in a package.

Packages take their names from Unicode, but of different years: `flag-for-chad`, `bride-with-veil-dark-skin-tone`. A
name is looked up in the table of aliases, then among the names of today's CLDR, then among the names of characters,
which never change. Only letters and digits are compared.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cache

from data.emoji.aliases import ALIASES, FIREFOX, TONES_RIGHT
from data.emoji.names import split_tones
from data.emoji.styles import ORIGINALS
from data.emoji.table import emojis

_TONE = re.compile(r"-(medium-light|medium-dark|light|medium|dark)(?:-skin-tone)?(?![^-])")


def matched(names: Iterable[str], style: str) -> str | None:
    """The code points, as in an emoji's key, of the first of these names that matches a concept; None if none does."""
    for name in names:
        if style == "firefox" and name in FIREFOX:
            return FIREFOX[name]
        if codes := _by_name(name):
            return codes
    return None


def tones_set_right(codes: str) -> str:
    """The code points that a drawing of `fluent-3d` really shows, given those in its name. See `TONES_RIGHT`."""
    codes = codes.replace("-fe0f", "")
    swapped = {} if TONES_RIGHT.search(codes) else {"1f3fc": "1f3fd", "1f3fd": "1f3fc"}
    return "-".join(swapped.get(code, code) for code in codes.split("-"))


def _by_name(name: str) -> str | None:
    known = _concepts()
    if codes := known.get((_base(name), ())):
        return codes
    tones = tuple(_TONE.findall(name))
    return known.get((_base(_TONE.sub("", name)), tones))


def _base(name: str) -> str:
    """The plain name of today's concept that a name without tones stands for."""
    if name in ALIASES:
        return _plain(ALIASES[name])
    plain = _plain(name.replace("flag-for-", "flag-"))
    return plain if (plain, ()) in _concepts() else _characters().get(plain, plain)


@cache
def _concepts() -> Mapping[tuple[str, tuple[str, ...]], str]:
    """Code points of all concepts, by (plain name without tones, tones)."""
    found: dict[tuple[str, tuple[str, ...]], str] = {}
    for emoji in emojis(ORIGINALS[:1]):
        name, tones = split_tones(emoji.name)
        found.setdefault((_plain(name), tones), emoji.codes)
    return found


@cache
def _characters() -> Mapping[str, str]:
    """Plain names of the concepts with a single character, by the plain name of the character in Unicode."""
    return {
        _plain(unicodedata.name(chr(int(emoji.codes, 16)), "")): _plain(emoji.name)
        for emoji in emojis(ORIGINALS[:1])
        if "-" not in emoji.codes
    }


def _plain(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name.replace("&", "and")).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9#*]", "", letters)
