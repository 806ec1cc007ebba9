"""The interface of a source of captioned pictures, before they are rendered."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.picture import fit, original_size
from data.rendered import PictureInfo
from data.store import Store
from training.parts import Registry

SOURCES: Registry[Callable[[str, Path], "Corpus"]] = Registry("source")
"""Opens `NAME:REST` by NAME, as `function(REST, cache folder)`. The function raises `BadInput`."""


class Corpus:
    """Pictures at their full size, with keys, captions and splits.

    Subclasses set the attributes. Methods take a position in `keys`.
    """

    name: str
    """Its name in logs."""
    recipe: str
    """Text that changes whenever any rendered picture would change. Rendered pictures are cached under it."""
    keys: Sequence[str]
    """A name for each picture that does not change when the corpus grows or shrinks."""
    texts: Sequence[str]
    """The caption of each picture, if there is exactly one."""
    splits: Sequence[str]
    """The split of each picture."""
    num_validation: int = 0
    """How many pictures were taken from `train` for validation, because the source states none."""
    descriptions: str = ""
    """Text that changes whenever `describe` would return something else for a picture."""
    left_out: Mapping[str, str] = {}
    """Pictures that were found but are not in `keys`, as {name: reason}."""

    def file(self, i: int) -> Path | bytes:
        """The path or the content of picture `i`'s file, if it has one. Raises `data.store.Unreadable`."""
        raise NotImplementedError

    def render(self, i: int, size: int) -> NDArray[np.uint8]:
        """Picture `i`, RGB on white, uint8 (3, size, size). By default, `data.picture.fit` of its file.

        Raises:
            Unreadable: the picture cannot be read (`data.store`).
        """
        return fit(self.file(i), size)

    def captions(self, i: int) -> tuple[str, ...]:
        """All captions of picture `i`, always in the same order. By default its text alone.

        There is at least one, unless the corpus was opened with pictures that have none.
        """
        return (text,) if (text := self.texts[i]) else ()

    def describe(self, i: int, picture: NDArray[np.uint8]) -> tuple[str, ...]:
        """Further captions of picture `i`, which say what its pixels show, uint8 (3, size, size). By default none."""
        return ()

    def group(self, i: int) -> str:
        """The group of picture `i`: groups are sampled evenly in training. By default each picture is its own group."""
        return self.keys[i]

    def height(self, i: int) -> float:
        """The height of picture `i` in widths, above 0 to 1. Below it a rendered picture is white. By default 1."""
        return 1.0

    def original_size(self, i: int) -> tuple[int, int] | None:
        """Width and height of picture `i`'s file; None for vector art. Raises `data.store.Unreadable`."""
        return original_size(self.file(i))

    def check(self, store: Store[PictureInfo]) -> Mapping[str, str]:
        """Rendered pictures that must not be used, as {key: reason}. By default none.

        Raises:
            BadInput: the pictures contradict the splits.
        """
        return {}
