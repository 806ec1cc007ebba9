"""An index of perceptual hashes that finds the nearest picture without comparing all pairs.

Multi-index hashing (arXiv 1307.2982): a hash is divided into more than `bits / 2` bands. By the pigeonhole principle,
two hashes that differ in at most `bits` bits differ in at most one bit of some band. So there is a table for each band,
and a hash is looked up in it as it is and with each bit of the band flipped. With 10 bits there are 6 bands of 21 or 22
bits, which have over two million values. The bits of a band come from all parts of the picture, because adjacent bits
are correlated.
"""

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

_FEWEST = 3
"""Fewest bands; more than 64 bits do not fit an int64."""


class NearIndex:
    """Finds the nearest of the pictures that were added."""

    def __init__(self, hashes: NDArray[np.uint8], colours: NDArray[np.uint8], bits: int, shades: float) -> None:
        """Prepares an empty index.

        Args:
            hashes: uint8 (N, 16), of all pictures that may be added or looked up.
            colours: uint8 (N, 8, 8, 3), their mean colours.
            bits: most bits in which near pictures differ.
            shades: most root mean square difference of the colours of near pictures, in steps of 255.
        """
        self._words = np.ascontiguousarray(hashes).view(np.uint64)
        self._colours, self._bits, self._shades = colours, bits, shades
        bands = max(bits // 2 + 1, _FEWEST)
        every = np.unpackbits(hashes, axis=1)
        self._flips = [[0, *(1 << bit for bit in range(every[0, band::bands].size))] for band in range(bands)]
        self._values = np.stack([_number(every[:, band::bands]) for band in range(bands)], axis=1)
        self._tables: list[defaultdict[int, list[int]]] = [defaultdict(list) for _ in range(bands)]

    def add(self, i: int) -> None:
        """Adds picture `i`."""
        for table, value in zip(self._tables, self._values[i].tolist(), strict=True):
            table[value].append(i)

    def nearest(self, i: int) -> tuple[int, int] | None:
        """The added picture near `i` whose hash differs least (of equals the first), and in how many bits; or None."""
        found: list[int] = []
        for table, value, flips in zip(self._tables, self._values[i].tolist(), self._flips, strict=True):
            for flip in flips:
                found += table.get(value ^ flip, ())
        if not found:
            return None
        others = np.unique(found)
        distances = np.bitwise_count(self._words[others] ^ self._words[i]).sum(1, dtype=np.int64)
        others, distances = others[distances <= self._bits], distances[distances <= self._bits]
        differences = self._colours[others].astype(np.float32) - self._colours[i]
        alike = np.square(differences).mean((1, 2, 3)) <= self._shades**2
        if not alike.any():
            return None
        best = int(distances[alike].argmin())
        return int(others[alike][best]), int(distances[alike][best])


def _number(bits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Bits (N, width) as numbers, int64 (N,)."""
    return bits @ (np.int64(1) << np.arange(bits.shape[1]))
