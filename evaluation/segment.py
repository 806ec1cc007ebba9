"""Takes a picture of a scene apart: its background, and each thing that stands on it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_APART = 30
"""Least difference of a pixel's channel from the background's, of 255, from which on it belongs to a thing."""
_SPECK = 0.15
"""Least share of the largest thing's area; what is smaller is dirt, or a piece that came off."""
_SMALLEST = 0.002
"""Least share of the picture's area."""

RGB = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A connected region that is not background."""

    box: tuple[slice, slice]
    """Rows and columns of the picture."""
    mask: NDArray[np.bool_]
    """What of the box belongs to it."""

    @property
    def center(self) -> tuple[float, float]:
        """Column and row of the middle of its box."""
        rows, columns = self.box
        return (columns.start + columns.stop) / 2, (rows.start + rows.stop) / 2

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of its box."""
        rows, columns = self.box
        return columns.stop - columns.start, rows.stop - rows.start


def background(picture: NDArray[np.uint8]) -> RGB:
    """The usual colour of the edge of a picture (3, H, W): the median of the most frequent of 16^3 colours there."""
    edge = np.concatenate([picture[:, 0], picture[:, -1], picture[:, :, 0], picture[:, :, -1]], 1).T.astype(int)
    coarse = (edge + 8) // 16 @ np.array([1024, 32, 1])
    values, counts = np.unique(coarse, return_counts=True)
    red, green, blue = np.median(edge[coarse == values[counts.argmax()]], 0).round().astype(int).tolist()
    return red, green, blue


def pieces(picture: NDArray[np.uint8], ground: RGB) -> list[Piece]:
    """The things on a ground of one colour, from the largest on: of a picture uint8 (3, H, W)."""
    apart = np.abs(picture.astype(int) - np.array(ground)[:, None, None]).max(0) > _APART
    labels, count = ndimage.label(ndimage.binary_fill_holes(apart), np.ones((3, 3)))
    if not count:
        return []
    areas = ndimage.sum_labels(np.ones_like(labels), labels, np.arange(1, count + 1))
    least = max(_SPECK * areas.max(), _SMALLEST * labels.size)
    boxes = ndimage.find_objects(labels)
    found = [(area, i, box) for i, (area, box) in enumerate(zip(areas, boxes, strict=True), 1) if area >= least]
    return [Piece(box=box, mask=labels[box] == i) for _, i, box in sorted(found, key=lambda one: -one[0])]
