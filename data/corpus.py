"""What a collection of captioned pictures must tell, before any picture is drawn."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.picture import fit, original_size
from data.rendered import PictureInfo
from data.store import Store
from training.parts import Registry

SOURCES: Registry[Callable[[str, Path], "Corpus"]] = Registry("source")
"""What opens `NAME:REST`, by NAME: it is given REST and a folder to keep files in. Raises `BadInput`."""


class Corpus:
    """Pictures at their full size, and what is known about them.

    Subclasses set the attributes. Positions in `keys` and `splits` are the positions that the methods take.
    """

    name: str
    """What to call it in a log."""
    recipe: str
    """Changes whenever any picture would look different; drawn pictures are kept under it."""
    keys: Sequence[str]
    """A name for each picture that stays the same when the corpus grows or shrinks."""
    texts: Sequence[str]
    """The caption of each picture, where it has one alone."""
    splits: Sequence[str]
    """The split of each picture."""
    set_aside: int = 0
    """How many pictures are for validation by a hash of their keys, because the source states none."""
    left_out: Mapping[str, str] = {}
    """Why a picture that was found is not in `keys`, by its name."""

    def file(self, i: int) -> Path | bytes:
        """The file of picture `i`, or its content, where it is drawn from one. Raises `data.store.Unreadable`."""
        raise NotImplementedError

    def render(self, i: int, size: int) -> NDArray[np.uint8]:
        """Picture `i`, RGB on white, uint8 (3, size, size); by default its file as `data.picture.fit` makes it. Raises
        `data.store.Unreadable`."""
        return fit(self.file(i), size)

    def captions(self, i: int) -> tuple[str, ...]:
        """Every caption of picture `i`, at least one, always in the same order; by default its text, alone."""
        return (self.texts[i],)

    def group(self, i: int) -> str:
        """Names what picture `i` is a variant of; variants share a turn in training. By default it stands alone."""
        return self.keys[i]

    def original_size(self, i: int) -> tuple[int, int] | None:
        """Width and height of picture `i` before drawing; None where it has none. Raises `data.store.Unreadable`."""
        return original_size(self.file(i))

    def check(self, store: Store[PictureInfo]) -> Mapping[str, str]:
        """Why pictures that could be drawn are not used, by their keys; by default all are.

        Raises `BadInput` where the pictures show that the splits are not what they promise.
        """
        return {}
