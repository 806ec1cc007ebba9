"""A data set of captioned pictures of one size, as all other code uses it."""

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
    """Some pictures of a corpus, square, with their captions. A map-style dataset of the pictures.

    The pictures are rows of a memory-mapped store. A pickled copy holds only file names, so the workers of a
    `DataLoader` share one memory map.
    """

    def __init__(
        self, name: str, corpus: Corpus, positions: Sequence[int], store: Store[PictureInfo], rows: Sequence[int]
    ) -> None:
        """Selects the pictures at `positions` of `corpus`, which are the `rows` of `store`; leaves out unusable ones.

        Raises as `Corpus.check` does.
        """
        self.name = name
        """Their name in logs: `"emoji-64/train"`."""
        self.corpus = corpus
        self.size = store.info.size
        self.folder: Path = store.folder
        """The folder of the store."""
        wanted = {corpus.keys[position] for position in positions}
        self.skipped: Mapping[str, str] = {key: why for key, why in store.left_out.items() if key in wanted}
        """Pictures that could not be rendered, as {key: reason}."""
        self.excluded: Mapping[str, str] = {key: why for key, why in corpus.check(store).items() if key in wanted}
        """Rendered pictures that must not be used, as {key: reason}; see `Corpus.check`."""
        missing = self.skipped.keys() | self.excluded.keys()
        there = [corpus.keys[position] not in missing for position in positions]
        self.positions = [position for position, has in zip(positions, there, strict=True) if has]
        """The position of each picture in `corpus`."""
        self._rows = [row for row, has in zip(rows, there, strict=True) if has]
        self.store = store
        self.fingerprint = self._hash()
        """A hash of all pictures, captions and keys, in order."""

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self._rows)

    def __getitem__(self, i: int) -> Tensor:
        """Picture `i`, RGB on white: uint8 (3, size, size)."""
        # copied, because the memory map is read-only
        return torch.from_numpy(self.store.array("pictures")[self._rows[i]].copy())

    def captions(self, i: int) -> tuple[str, ...]:
        """All captions of picture `i`: at least one, always in the same order."""
        return self.corpus.captions(self.positions[i])

    def key(self, i: int) -> str:
        """A name for picture `i` that does not change when the source grows or shrinks."""
        return self.corpus.keys[self.positions[i]]

    def group(self, i: int) -> str:
        """The group of picture `i`, such as an emoji with its skin tones. Training samples groups evenly."""
        return self.corpus.group(self.positions[i])

    def _hash(self) -> str:
        digest, digests = hashlib.blake2b(str(self.size).encode(), digest_size=16), self.store.array("digest")
        for i, row in enumerate(self._rows):
            digest.update(repr((self.key(i), digests[row].tobytes().hex(), self.captions(i))).encode())
        return digest.hexdigest()
