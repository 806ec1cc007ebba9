"""Prepares the built-in corpus: `python -m data.emoji --size 64`."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from data.captioned import CaptionedImages, RenderedImages
from data.emoji.corpus import EmojiCorpus
from data.emoji.table import find
from data.grid import grid
from data.source import open_source
from data.splits import fraction
from training.cli import command
from training.files import atomic, write_text

_COLUMNS, _ROWS = 14, 10


@dataclass(kw_only=True)
class EmojiOptions:
    """Fetches and renders the built-in corpus of emoji, once, into a cache."""

    data: str = "emoji"
    """`emoji` for all styles that can be fetched, or the names of some: `emoji:twemoji,fluent-flat`."""
    size: int = 64
    """Width and height of the pictures in pixels."""
    cache: Path | None = None
    """Folder for the pictures; by default the user's cache folder."""
    sheets: Path | None = None
    """Folder for a contact sheet of each style; by default none are made."""


def main(options: EmojiOptions) -> None:
    """Renders all emoji, unless that was done before. Prints where they are and what was left out."""
    begin = time.monotonic()
    pictures = open_source(options.data, size=options.size, cache=options.cache)
    (part,) = pictures.parts
    styles = Counter(find(pictures.key(i)).style for i in range(len(pictures)))
    print(
        f"{len(pictures):,} emoji in {len(styles)} styles ({', '.join(f'{name} {n:,}' for name, n in styles.items())}) "
        f"at {options.size} px in {time.monotonic() - begin:.0f} seconds: {part.folder}"
    )
    listed = part.folder.with_name(f"{part.folder.name}-left-out.txt")
    lines = list(left_out(part))
    write_text(listed, "".join(f"{line}\n" for line in lines))
    print(f"{len(lines):,} drawings were left out; the reasons are in {listed}")
    if options.sheets:
        for style in styles:
            with atomic(options.sheets / f"{style}.png") as temporary:
                _sheet(pictures, style).save(temporary, format="PNG")
        print(f"a contact sheet of each style is in {options.sheets}")


def left_out(part: RenderedImages) -> Iterator[str]:
    """One line for each drawing that is not used: its name and the reason."""
    for key, why in {**part.skipped, **part.excluded}.items():
        yield f"{key}: {why}"
    assert isinstance(part.corpus, EmojiCorpus)
    for style, collection in part.corpus.collections.items():
        for name, why in collection.left_out.items():
            yield f"{style}, {name}: {why}"


def _sheet(pictures: CaptionedImages, style: str) -> Image.Image:
    """A contact sheet of a style: 140 emoji at most, with their names, chosen by a hash."""
    of_style = [i for i in range(len(pictures)) if find(pictures.key(i)).style == style]
    some = sorted(of_style, key=lambda i: fraction(f"sheet {find(pictures.key(i)).codes}"))[: _COLUMNS * _ROWS]
    names = [find(pictures.key(i)).name for i in some]
    return grid([pictures[i] for i in some], names, columns=_COLUMNS, cell=96)


if __name__ == "__main__":
    command(main, EmojiOptions)
