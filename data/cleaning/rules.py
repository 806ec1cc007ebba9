"""Decides which pictures of a corpus to leave out: unusable ones and copies."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from data.cleaning.measure import MeasuresInfo
from data.cleaning.near import NearIndex
from data.corpus import Corpus
from data.splits import TRAIN, VALIDATION
from data.store import PRESENT, Store
from training.config import require

EXACT, NEAR = "exact copy", "near copy"
UNCAPTIONED, TOO_LONG = "no caption", "caption too long"


@dataclass(kw_only=True)
class Rules:
    """Which pictures and captions are left out."""

    min_side: int = 64
    """Leave out pictures whose short side has fewer pixels."""
    max_aspect: float = 3.0
    """Leave out pictures whose long side is more than this many times the short side. Training crops to a square."""
    min_contrast: float = 2.0
    """Leave out flat pictures, in which the channel that varies most has a smaller standard deviation. Channels range
    from 0 to 255."""
    max_caption: int = 1000
    """Remove captions with more characters. A picture without any other is left out."""
    near: int | None = 10
    """Leave out near copies, whose perceptual hashes differ in at most this many of 128 bits. With null, only pictures
    with equal pixels are copies. Measured on 300 crops of photographs: copies with JPEG quality 50, of half the size,
    and trimmed by 1 % at each edge differ in at most 6, 6 and 11 bits."""
    near_colour: float = 6.0
    """Most difference in colour between near copies, so that a drawing in another colour is not a copy: the root mean
    square over an 8x8 grid of mean colours, in steps of 255. The copies of photographs differ by at most 0.9, 0.5 and
    6.3. For drawings in one style, 2 is better."""

    def __post_init__(self) -> None:
        require(self, "min_side", self.min_side >= 1, "1 or more")
        require(self, "max_aspect", self.max_aspect >= 1, "1 or more")
        require(self, "min_contrast", 0 <= self.min_contrast <= 128, "from 0 to 128")
        require(self, "max_caption", self.max_caption >= 1, "1 or more")
        require(self, "near", self.near is None or 0 <= self.near <= 24, "from 0 to 24, or null")
        require(self, "near_colour", 0 <= self.near_colour <= 255, "from 0 to 255")


@dataclass(frozen=True)
class LeftOut:
    """The reason why a picture is not kept."""

    why: str
    detail: str = ""
    copy_of: int | None = None
    """Position of the kept picture, if this one is a copy of it."""


def is_held_out(corpus: Corpus, i: int) -> bool:
    """Whether the source itself states that picture `i` is in another split than `train`."""
    return corpus.splits[i] != TRAIN and not (corpus.num_validation and corpus.splits[i] == VALIDATION)


def usable(captions: Sequence[str], most: int) -> tuple[str, ...]:
    """The captions with 1 to `most` characters. Of those that differ only in spaces and capitals, the first."""
    found: dict[str, str] = {}
    for caption in captions:
        if 0 < len(caption.strip()) <= most:
            found.setdefault(" ".join(caption.split()).casefold(), caption.strip())
    return tuple(found.values())


def faults(
    measures: Store[MeasuresInfo], captions: Sequence[Sequence[str]], rules: Rules, *, captionless: bool
) -> dict[int, LeftOut]:
    """Pictures to leave out for themselves, by position.

    Args:
        measures: measurements of all pictures.
        captions: captions of all pictures.
        rules: what to leave out.
        captionless: keep pictures without a usable caption.
    """
    found: dict[int, LeftOut] = {}
    there, sizes, contrasts = (measures.array(name) for name in ("state", "size", "contrast"))
    for i, its in enumerate(captions):
        (width, height), contrast = sizes[i].tolist(), float(contrasts[i])
        if there[i] != PRESENT:
            found[i] = LeftOut("unreadable", measures.left_out[measures.key(i)])
        elif min(width, height) < rules.min_side:
            found[i] = LeftOut("too small", f"{width}x{height} pixels")
        elif max(width, height) > rules.max_aspect * min(width, height):
            found[i] = LeftOut("too long or wide", f"{width}x{height} pixels")
        elif contrast < rules.min_contrast:
            found[i] = LeftOut("too flat", f"contrast {contrast:.2g}")
        elif not captionless and not its:
            found[i] = LeftOut(UNCAPTIONED)
        elif not captionless and not usable(its, rules.max_caption):
            found[i] = LeftOut(TOO_LONG, f"{min(map(len, its)):,} characters")
    return found


def copies(corpus: Corpus, measures: Store[MeasuresInfo], rules: Rules, exclude: Collection[int]) -> dict[int, LeftOut]:
    """Copies to leave out, by position. Pictures at the positions `exclude` are ignored.

    Held-out pictures are visited first, then larger ones, then earlier ones. A picture is left out if it is a copy of
    one that was visited and kept. So no two kept pictures are copies, and no kept training picture is a copy of a
    held-out one that is kept.
    """
    sizes = measures.array("size").astype(np.int64).prod(1)
    pixels, index = measures.array("pixels"), None
    if rules.near is not None:
        index = NearIndex(measures.array("hash"), measures.array("colours"), rules.near, rules.near_colour)
    found: dict[int, LeftOut] = {}
    first: dict[bytes, int] = {}
    among = (i for i in range(len(corpus.keys)) if i not in exclude)
    for i in sorted(among, key=lambda i: (not is_held_out(corpus, i), -sizes[i], i)):
        same = first.setdefault(pixels[i].tobytes(), i)
        if same != i:
            original = found[same].copy_of if same in found else same
            found[i] = LeftOut(EXACT if original == same else NEAR, copy_of=original)
        elif index is not None:
            if (near := index.nearest(i)) is None:
                index.add(i)
            else:
                found[i] = LeftOut(NEAR, f"{near[1]} bits", near[0])
    return found
