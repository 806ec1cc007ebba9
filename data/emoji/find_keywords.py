"""Prints the table `data/emoji/keywords.tsv`, made from the English annotations of Unicode's CLDR.

    python -m data.emoji.find_keywords > data/emoji/keywords.tsv

Run it when the version of the table of emoji changes. It fetches an npm package.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from data.emoji.names import split_tones
from data.emoji.npm import members
from data.emoji.styles import Package
from data.emoji.table import emojis
from training.cli import command
from training.errors import BadInput

CLDR = Package(
    name="cldr-annotations-full",
    version="48.2.0",
    integrity="sha512-DV7A+rEcgUSNTRsVGNGqBZRmAkGfwhGHO5Q1dRwzBoBnVrHWp804JP7/QJdEc66iHmx3+zLWVIMCFLm0lW7PUQ==",
    family="none",
    credit="CLDR annotations (c) Unicode, Unicode-3.0",
)
_FILE = PurePosixPath("annotations/en/annotations.json")


def useful(name: str, words: Sequence[str]) -> list[str]:
    """The keywords in plain ASCII that say more than the name, at most eight."""
    said = set(re.findall(r"\w+", name.lower()))
    stems = {word.removesuffix("s") for word in said}
    plain = [word for word in words if re.fullmatch(r"[a-z][a-z' -]+", word)]
    return [word for word in plain if not {part.removesuffix("s") for part in re.findall(r"\w+", word)} <= stems][:8]


def table(annotations: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, list[str]]:
    """Keywords by the name of a concept, in Unicode's order. `annotations` are CLDR's, by character."""
    rows = {}
    for emoji in emojis(("noto",)):
        name, tones = split_tones(emoji.name)
        characters = "".join(chr(int(code, 16)) for code in emoji.codepoints)
        found = annotations.get(characters) or annotations.get(characters.replace("\ufe0f", ""))
        if found and not tones and (words := useful(name, found["default"])):
            rows[name] = words
    return rows


@dataclass(kw_only=True)
class FindKeywordsOptions:
    """Prints the keywords of all emoji."""


def main(options: FindKeywordsOptions) -> None:
    """Prints one row for each concept that has keywords."""
    texts = (content for path, content in members(CLDR) if path == _FILE)
    if (text := next(texts, None)) is None:
        raise BadInput(f"npm package {CLDR.name}: has no {_FILE}")
    for name, words in table(json.loads(text)["annotations"]["annotations"]).items():
        print(f"{name}\t{','.join(words)}")


if __name__ == "__main__":
    command(main, FindKeywordsOptions)
