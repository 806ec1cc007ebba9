"""Keywords of emoji from Unicode's CLDR, for captions: a rocket has launch, space and travel."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from data.emoji.names import split_tones

TABLE = Path(__file__).parent / "keywords.tsv"
"""A row for each concept without skin tone: its CLDR name, a tab, and its keywords, separated by commas."""


def keywords(name: str) -> tuple[str, ...]:
    """The keywords of the emoji with this CLDR name that its name does not contain; flags and families have none."""
    return _table().get(split_tones(name)[0], ())


@cache
def _table() -> Mapping[str, tuple[str, ...]]:
    rows = (line.split("\t") for line in TABLE.read_text(encoding="utf-8").splitlines())
    return {name: tuple(words.split(",")) for name, words in rows}
