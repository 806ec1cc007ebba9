"""What every source of captioned pictures looks like to the rest of the house."""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.store import PictureStore


class CaptionedImages(Dataset[Tensor]):
    """Square pictures with captions: a map-style dataset of pictures, whose captions are asked for by position.

    Subclasses set `name`, what to call the source in a log (`"emoji-64/train"`), and `fingerprint`, a hash of all its
    pictures, captions and keys in order.
    """

    name: str
    fingerprint: str

    @abstractmethod
    def __len__(self) -> int:
        """The number of pictures."""

    @abstractmethod
    def __getitem__(self, i: int) -> Tensor:
        """The picture at position `i`: uint8 (3, size, size), RGB on white."""

    @abstractmethod
    def captions(self, i: int) -> tuple[str, ...]:
        """Every caption of picture `i`, at least one, always in the same order."""

    @abstractmethod
    def key(self, i: int) -> str:
        """A name for picture `i` that stays the same when the source grows or shrinks around it."""


class StoredImages(CaptionedImages):
    """Some rows of a picture store, with their captions.

    A pickled copy carries file names and no pictures, so the workers of a `DataLoader` share one memory map.
    """

    def __init__(self, name: str, store: PictureStore, rows: Sequence[int], captions: Sequence[tuple[str, ...]]) -> None:
        """`rows` are positions in `store`; `captions[i]` belongs to `rows[i]`."""
        self.name = name
        self._store = store
        self._rows = rows
        self._captions = captions
        self.fingerprint = self._hash()

    @property
    def folder(self) -> Path:
        """Where the pictures are."""
        return self._store.folder

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> Tensor:
        # a copy, because the map is read-only
        return torch.from_numpy(self._store.pictures[self._rows[i]].copy())

    def captions(self, i: int) -> tuple[str, ...]:
        """Every caption of picture `i`, at least one, always in the same order."""
        return self._captions[i]

    def key(self, i: int) -> str:
        """The key under which the store has picture `i`."""
        return self._store.keys[self._rows[i]]

    def _hash(self) -> str:
        digest = hashlib.blake2b(str(self._store.size).encode(), digest_size=16)
        for i, row in enumerate(self._rows):
            record = (self._store.keys[row], self._store.digests[row], self._captions[i])
            digest.update(repr(record).encode())
        return digest.hexdigest()
