"""The one way to captioned pictures, whatever they come from."""

from pathlib import Path

from data.captioned import CaptionedImages
from data.emoji import open_emoji
from training.errors import BadInput

__all__ = ["CaptionedImages", "open_source"]


def open_source(
    source: str | Path,
    *,
    size: int,
    split: str | None = None,
    cache: str | Path | None = None,
    limit: int | None = None,
    strict: bool = False,
) -> CaptionedImages:
    """Opens `"emoji"`, the built-in corpus."""
    folder = Path(cache) if cache is not None else None
    if source == "emoji":
        return open_emoji(size=size, split=split, cache=folder, limit=limit)
    raise BadInput("not yet")
