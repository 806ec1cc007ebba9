"""Segments a picture of a scene: finds its background color and the things on it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.errors import needing

_APART = 30
"""A pixel belongs to a thing if some channel differs from the background by more than this, of 255."""
_SPECK = 0.15
"""Least area of a thing, as a share of the largest thing's. Smaller regions are specks or fragments."""
_SMALLEST = 0.002
"""Least area of a thing, as a share of the picture's."""

RGB = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A connected region that is not background."""

    box: tuple[slice, slice]
    """Rows and columns of the picture."""
    mask: NDArray[np.bool_]
    """The pixels of the box that belong to the region, bool."""

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
    """The background color of a picture, uint8 (3, H, W), from the pixels of its edge.

    Their colors are sorted into bins 16 wide in each channel. The result is the median of those in the fullest bin.
    """
    edge = np.concatenate([picture[:, 0], picture[:, -1], picture[:, :, 0], picture[:, :, -1]], 1).T.astype(int)
    coarse = (edge + 8) // 16 @ np.array([1024, 32, 1])
    values, counts = np.unique(coarse, return_counts=True)
    red, green, blue = np.median(edge[coarse == values[counts.argmax()]], 0).round().astype(int).tolist()
    return red, green, blue


def pieces(picture: NDArray[np.uint8], ground: RGB) -> list[Piece]:
    """Finds the things in a picture, uint8 (3, H, W), on the background color `ground`; returns the largest first."""
    with needing("eval"):
        from scipy import ndimage
    apart = np.abs(picture.astype(int) - np.array(ground)[:, None, None]).max(0) > _APART
    labels, count = ndimage.label(ndimage.binary_fill_holes(apart), np.ones((3, 3)))
    if not count:
        return []
    areas = ndimage.sum_labels(np.ones_like(labels), labels, np.arange(1, count + 1))
    least = max(_SPECK * areas.max(), _SMALLEST * labels.size)
    boxes = ndimage.find_objects(labels)
    found = [(area, i, box) for i, (area, box) in enumerate(zip(areas, boxes, strict=True), 1) if area >= least]
    return [Piece(box=box, mask=labels[box] == i) for _, i, box in sorted(found, key=lambda one: -one[0])]
