"""Measures which drawings of things cannot be told from a background of scenes, as `data/scenes/vocabulary.py` lists.

    python -m evaluation.find_unfit

For those who take another version of an art package, or add a thing or a background.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from platformdirs import user_cache_dir

from data.emoji.collection import Collection
from data.emoji.corpus import EmojiCorpus
from data.emoji.styles import ORIGINALS
from data.scenes.sprites import Sprites
from data.scenes.vocabulary import BACKGROUNDS, RGB, THINGS
from evaluation.segment import pieces
from training.cli import command

_SIDE, _MARGIN = 20, 4
"""Pixels: of a thing at the size that it has in a scene of four, and around it."""


@dataclass(kw_only=True)
class FindUnfitOptions:
    """Prints the drawings of things that cannot be told from some background."""

    cache: Path | None = None
    """Folder of the emoji; by default the user's cache folder."""


def main(options: FindUnfitOptions) -> None:
    """Prints code point and style of each such drawing."""
    collections = EmojiCorpus("emoji", options.cache or Path(user_cache_dir("tessera"))).collections
    print("\n".join(unfit(Sprites(collections, 128), collections)))


def unfit(sprites: Sprites, collections: Mapping[str, Collection]) -> Iterator[str]:
    """`"1f98a/noto"` and so on: drawings of which a background hides a part, or that fall into pieces on it."""
    for thing in THINGS:
        for style in (*ORIGINALS, *collections):
            if style in ORIGINALS or thing.codes in collections[style].files:
                sprite = sprites.get(thing.codes, style)
                if not all(_can_be_told(sprite, ground) for ground in BACKGROUNDS.values()):
                    yield f"{thing.codes}/{style}"


def _can_be_told(sprite: Image.Image, ground: RGB) -> bool:
    """Whether a small drawing on the ground is found as one piece, and nearly all of it."""
    scale = _SIDE / max(sprite.size)
    small = sprite.resize([max(1, round(side * scale)) for side in sprite.size], Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (_SIDE + 2 * _MARGIN,) * 2, ground)
    canvas.paste(small, (_MARGIN, _MARGIN), small)
    found = pieces(np.asarray(canvas).transpose(2, 0, 1), ground)
    drawn = int((np.asarray(small)[..., 3] > 160).sum())
    return len(found) == 1 and int(found[0].mask.sum()) >= 0.85 * drawn


if __name__ == "__main__":
    command(main, FindUnfitOptions)
