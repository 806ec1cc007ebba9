"""The built-in corpus: every emoji, drawn in three hands.

    python -m data.emoji --size 64
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_dir

from data.captioned import StoredImages
from data.emoji_art import PACKAGES, STYLES, draw, package
from data.emoji_names import prompt
from data.emoji_table import Emoji, emojis, find
from data.splits import SPLITS, fraction
from data.store import PictureStore, open_store
from training.cli import command
from training.errors import BadInput

__all__ = ["STYLES", "Emoji", "emojis", "find", "open_emoji", "prompt"]


def open_emoji(
    *, size: int = 64, split: str | None = None, cache: Path | None = None, limit: int | None = None
) -> StoredImages:
    """The emoji of a split, or of all, at `size` pixels; drawn into the folder `cache` if they are not there yet.

    With a `limit`, the first that many in a fixed random order; only these are drawn. Raises `BadInput`.
    """
    if not 16 <= size <= 1024:
        raise BadInput(f"size is {size}: emoji can be drawn at 16 to 1024 pixels")
    if split is not None and split not in SPLITS:
        raise BadInput(f"the emoji corpus has no split {split!r}: it has {', '.join(SPLITS)}")
    if limit is not None and limit < 1:
        raise BadInput(f"limit is {limit}: must be 1 or more")
    for name in PACKAGES.values():
        package(name)
    chosen = [emoji for emoji in emojis() if split in (None, emoji.split)]
    if limit is not None:
        chosen = sorted(chosen, key=lambda emoji: fraction(emoji.key))[:limit]
    store = _store(size, chosen, limit, cache or Path(user_cache_dir("tessera")))
    rows = {key: row for row, key in enumerate(store.keys)}
    return StoredImages(
        name=f"emoji-{size}/{split or 'all'}" + (f"/first-{limit}" if limit else ""),
        store=store,
        rows=[rows[emoji.key] for emoji in chosen],
        captions=[emoji.captions for emoji in chosen],
    )


def _store(size: int, chosen: Sequence[Emoji], limit: int | None, cache: Path) -> PictureStore:
    """The whole corpus, from which splits are taken; or a small store of `chosen`, if that spares drawing the whole."""
    whole = _folder(cache, size, emojis())
    if limit is not None and not whole.exists():
        return _open(_folder(cache, size, chosen), size, chosen)
    store = _open(whole, size, emojis())
    _check_families(store)
    return store


def _open(folder: Path, size: int, chosen: Sequence[Emoji]) -> PictureStore:
    def draw_one(emoji: Emoji) -> NDArray[np.uint8]:
        return draw(emoji.codepoints, emoji.style, size)

    keys = [emoji.key for emoji in chosen]
    return open_store(folder, size, keys, chosen, draw_one, label=f"drawing emoji at {size} px")


def _folder(cache: Path, size: int, chosen: Sequence[Emoji]) -> Path:
    """Named by what it holds, so that other pictures, or other versions of the art, come to stand beside it."""
    recipe = [f"{name} {version(distribution)}" for distribution, name in PACKAGES.items()]
    recipe += [emoji.key for emoji in chosen]
    digest = hashlib.blake2b("\n".join(recipe).encode(), digest_size=4).hexdigest()
    return cache / f"emoji-{size}px-{len(chosen)}-{digest}"


def _check_families(store: PictureStore) -> None:
    """Equal pictures in two families could stand on both sides of a split."""
    seen: dict[str, Emoji] = {}
    for key, digest in zip(store.keys, store.digests, strict=True):
        emoji = find(key)
        twin = seen.setdefault(digest, emoji)
        if twin.family != emoji.family:
            raise BadInput(
                f"{twin.key} and {key} are the same picture in two families, so the splits are not apart: "
                'install the art that they were made for: pip install "tessera[emoji]"'
            )


@dataclass(kw_only=True)
class EmojiOptions:
    """Draws the built-in corpus of emoji once, into a cache."""

    size: int = 64
    """Width and height of the pictures in pixels."""
    cache: Path | None = None
    """Folder to keep the pictures in; by default the user's cache folder."""


def main(options: EmojiOptions) -> None:
    """Draws all emoji and says where they are."""
    pictures = open_emoji(size=options.size, cache=options.cache)
    print(f"{len(pictures):,} pictures at {options.size} px: {pictures.folder}")


if __name__ == "__main__":
    command(main, EmojiOptions)
