"""Finds drawings of things that a background of scenes hides or splits: `UNFIT` in `data/scenes/vocabulary.py`.

    python -m evaluation.find_unfit

Run it after you update an art package, or add a thing or a background.
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
"""Size of a thing, as in a scene of four, and of the margin around it, in pixels."""


@dataclass(kw_only=True)
class FindUnfitOptions:
    """Prints the drawings of things that some background hides or splits."""

    cache: Path | None = None
    """Folder of the emoji art; by default the user's cache folder."""


def main(options: FindUnfitOptions) -> None:
    """Prints the code point and style of each such drawing."""
    collections = EmojiCorpus("emoji", options.cache or Path(user_cache_dir("tessera"))).collections
    print("\n".join(unfit(Sprites(collections, 128), collections)))


def unfit(sprites: Sprites, collections: Mapping[str, Collection]) -> Iterator[str]:
    """Yields drawings that some background hides in part or splits into pieces, as `"1f98a/noto"`."""
    for thing in THINGS:
        for style in (*ORIGINALS, *collections):
            if style in ORIGINALS or thing.codes in collections[style].files:
                sprite = sprites.get(thing.codes, style)
                if not all(_is_found(sprite, ground) for ground in BACKGROUNDS.values()):
                    yield f"{thing.codes}/{style}"


def _is_found(sprite: Image.Image, ground: RGB) -> bool:
    """Whether segmentation finds a small drawing on the ground as one piece, with at least 85 % of its pixels."""
    scale = _SIDE / max(sprite.size)
    small = sprite.resize([max(1, round(side * scale)) for side in sprite.size], Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (_SIDE + 2 * _MARGIN,) * 2, ground)
    canvas.paste(small, (_MARGIN, _MARGIN), small)
    found = pieces(np.asarray(canvas).transpose(2, 0, 1), ground)
    drawn = int((np.asarray(small)[..., 3] > 160).sum())
    return len(found) == 1 and int(found[0].mask.sum()) >= 0.85 * drawn


if __name__ == "__main__":
    command(main, FindUnfitOptions)
