"""Names of colors, and the names of a picture's main colors."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

HUES: Mapping[str, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "orange": (247, 137, 28),
    "yellow": (247, 209, 45),
    "green": (56, 160, 68),
    "blue": (44, 110, 212),
    "purple": (134, 74, 184),
    "pink": (243, 128, 178),
    "brown": (131, 84, 52),
}
"""A typical sRGB color of each hue."""

NEUTRALS = ("black", "gray", "white")

_NEUTRAL = 0.04
"""Chroma in Oklab below which a color is neutral."""
_GRAY, _WHITE = 0.4, 0.88
"""Least lightness in Oklab of neutral colors that are gray, and of those that are white."""

_FIRST, _SECOND, _OUTLINES = 0.3, 0.2, 0.45
"""Least share of a picture's first color, of its second, and of black, which is usually only the outlines."""


def nearest(rgb: NDArray[np.float32]) -> NDArray[np.int64]:
    """The index in `HUES` of the hue nearest to each color (N, 3), 0 to 255, int64 (N,). Lightness counts half."""
    return np.linalg.norm((oklab(rgb)[:, None] - _HUES_OKLAB) * _WEIGHTS, axis=-1).argmin(1)


def colors_of(picture: NDArray[np.uint8]) -> tuple[str, ...]:
    """The names of the one or two main colors of a picture on white, uint8 (3, H, W); empty if it has many."""
    rgb = picture[:, ~_background(picture)].T.astype(np.float32)
    if not len(rgb):
        return ()
    lab = oklab(rgb)
    level = np.digitize(lab[:, 0], (_GRAY, _WHITE))
    neutral = np.linalg.norm(lab[:, 1:], axis=1) < _NEUTRAL
    names = [*HUES, *NEUTRALS]
    shares = np.bincount(np.where(neutral, len(HUES) + level, nearest(rgb)), minlength=len(names)) / len(rgb)
    shares[names.index("black")] *= shares[names.index("black")] >= _OUTLINES
    first, second = shares.argsort(stable=True)[:-3:-1]
    if shares[first] < _FIRST:
        return ()
    return (names[first], names[second]) if shares[second] >= _SECOND else (names[first],)


def oklab(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    """Converts sRGB (N, 3), 0 to 255, to Oklab (N, 3): lightness 0 to 1, and a and b (https://bottosson.github.io)."""
    channels = rgb / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    cones = np.cbrt(linear @ np.array([[0.4122214708, 0.5363325363, 0.0514459929],
                                       [0.2119034982, 0.6806995451, 0.1073969566],
                                       [0.0883024619, 0.2817188376, 0.6299787005]], np.float32).T)  # fmt: skip
    return cones @ np.array([[0.2104542553, 0.7936177850, -0.0040720468],
                             [1.9779984951, -2.4285922050, 0.4505937099],
                             [0.0259040371, 0.7827717662, -0.8086757660]], np.float32).T  # fmt: skip


_HUES_OKLAB = oklab(np.array([*HUES.values()], np.float32))
_WEIGHTS = np.array([0.5, 1, 1], np.float32)


def _background(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Marks the pixels, bool (H, W), that are white all along their row or column to some edge of the picture."""
    white = (picture >= 250).all(0)
    seen = np.zeros_like(white)
    for axis in (0, 1):
        seen |= np.minimum.accumulate(white, axis)
        seen |= np.flip(np.minimum.accumulate(np.flip(white, axis), axis), axis)
    return seen
