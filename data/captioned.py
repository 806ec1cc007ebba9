"""Captioned pictures of one size, as the rest of the house sees them."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.corpus import Corpus
from data.rendered import PictureInfo
from data.store import Store


class CaptionedImages(Dataset[Tensor]):
    """Some pictures of a corpus, square, drawn and kept in a store: a map-style dataset of pictures, whose captions are
    asked for by position.

    A pickled copy carries file names and no pictures, so the workers of a `DataLoader` share one memory map.
    """

    def __init__(
        self, name: str, corpus: Corpus, positions: Sequence[int], store: Store[PictureInfo], rows: Sequence[int]
    ) -> None:
        """`positions` are pictures of `corpus`, and `rows` where each is in `store`, if it is not left out there.

        Raises as `Corpus.check` does.
        """
        self.name = name
        """What to call them in a log: `"emoji-64/train"`."""
        self.corpus = corpus
        self.size = store.info.size
        self.folder: Path = store.folder
        """Where the pictures are kept."""
        wanted = {corpus.keys[position] for position in positions}
        self.skipped: Mapping[str, str] = {key: why for key, why in store.left_out.items() if key in wanted}
        """Why a picture is missing, by the key that it would have had."""
        self.set_apart: Mapping[str, str] = {key: why for key, why in corpus.check(store).items() if key in wanted}
        """Why a picture that could be drawn is not used, by the key that it would have had."""
        missing = self.skipped.keys() | self.set_apart.keys()
        there = [corpus.keys[position] not in missing for position in positions]
        self.positions = [position for position, has in zip(positions, there, strict=True) if has]
        """The place of each picture in `corpus`."""
        self._rows = [row for row, has in zip(rows, there, strict=True) if has]
        self.store = store
        self.fingerprint = self._hash()
        """Of all pictures, captions and keys, in order."""

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self._rows)

    def __getitem__(self, i: int) -> Tensor:
        """Picture `i`, RGB on white: uint8 (3, size, size)."""
        # a copy, because the map is read-only
        return torch.from_numpy(self.store.array("pictures")[self._rows[i]].copy())

    def captions(self, i: int) -> tuple[str, ...]:
        """Every caption of picture `i`, at least one, always in the same order."""
        return self.corpus.captions(self.positions[i])

    def key(self, i: int) -> str:
        """A name for picture `i` that stays the same when the source grows or shrinks."""
        return self.corpus.keys[self.positions[i]]

    def group(self, i: int) -> str:
        """Names what picture `i` is a variant of: variants share a turn in training."""
        return self.corpus.group(self.positions[i])

    def _hash(self) -> str:
        digest, digests = hashlib.blake2b(str(self.size).encode(), digest_size=16), self.store.array("digest")
        for i, row in enumerate(self._rows):
            digest.update(repr((self.key(i), digests[row].tobytes().hex(), self.captions(i))).encode())
        return digest.hexdigest()
