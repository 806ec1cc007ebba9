"""The built-in corpus of emoji: draws it once, and says what is in it.

    python -m data.emoji --size 64

`emojis()` lists the pictures with their names, styles, families, categories, splits and captions; `find(key)` is the
one behind a key; `prompt(name, style)` is how to ask a model for one.
"""

from dataclasses import dataclass
from pathlib import Path

from data.emoji_art import STYLES
from data.emoji_names import prompt
from data.emoji_table import Emoji, emojis, find
from data.source import open_source
from training.cli import command

__all__ = ["STYLES", "Emoji", "emojis", "find", "prompt"]


@dataclass(kw_only=True)
class EmojiOptions:
    """Draws the built-in corpus of emoji once, into a cache."""

    size: int = 64
    """Width and height of the pictures in pixels."""
    cache: Path | None = None
    """Folder to keep the pictures in; by default the user's cache folder."""


def main(options: EmojiOptions) -> None:
    """Draws all emoji, unless they are there, and says where they are."""
    pictures = open_source("emoji", size=options.size, cache=options.cache)
    print(f"{len(pictures):,} emoji at {options.size} px: {pictures.folder}")


if __name__ == "__main__":
    command(main, EmojiOptions)
