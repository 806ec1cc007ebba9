"""A data set of captioned pictures of one size, as all other code uses it."""

import hashlib
from bisect import bisect
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.corpus import Corpus
from data.rendered import PictureInfo
from data.store import Store


class RenderedImages:
    """Some pictures of one corpus, as rows of a memory-mapped store."""

    def __init__(
        self, name: str, corpus: Corpus, positions: Sequence[int], store: Store[PictureInfo], rows: Sequence[int]
    ) -> None:
        """Selects the pictures at `positions` of `corpus`, which are the `rows` of `store`; leaves out unusable ones.

        Raises as `Corpus.check` does.
        """
        self.name, self.size = name, store.info.size
        """Their name in logs, `"emoji-64/train"`, and their width and height in pixels."""
        self.corpus = corpus
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
        return len(self._rows)

    def __getitem__(self, i: int) -> Tensor:
        # copied, because the memory map is read-only
        return torch.from_numpy(self.store.array("pictures")[self._rows[i]].copy())

    def captions(self, i: int) -> tuple[str, ...]:
        """All captions of picture `i`, those that its pixels give last."""
        at, picture = self.positions[i], self.store.array("pictures")[self._rows[i]]
        return (*self.corpus.captions(at), *self.corpus.describe(at, picture))

    def _hash(self) -> str:
        digest, digests = hashlib.blake2b(str(self.size).encode(), digest_size=16), self.store.array("digest")
        corpus = self.corpus
        digest.update(corpus.descriptions.encode())
        for at, row in zip(self.positions, self._rows, strict=True):
            digest.update(repr((corpus.keys[at], digests[row].tobytes().hex(), corpus.captions(at))).encode())
        return digest.hexdigest()


class CaptionedImages(Dataset[Tensor]):
    """Square pictures with captions, from one source or several: a map-style dataset of the pictures.

    The workers of a `DataLoader` share one memory map of them.
    """

    def __init__(self, parts: Sequence[RenderedImages]) -> None:
        """The pictures of `parts`, which have one size, in order."""
        self.parts = parts
        self.name = "+".join(part.name for part in parts)
        """Their name in logs: `"emoji-64/train"`."""
        self.size = parts[0].size
        """Width and height in pixels."""
        self.fingerprint = parts[0].fingerprint
        """A hash of all pictures, captions and keys, in order."""
        if len(parts) > 1:
            self.fingerprint = hashlib.sha256(" ".join(part.fingerprint for part in parts).encode()).hexdigest()[:32]
        self._ends = list(accumulate(map(len, parts)))
        names = [part.corpus.name for part in parts]
        before = [names[:i].count(name) for i, name in enumerate(names)]
        self._names = [f"{name} ({n + 1})" if n else name for name, n in zip(names, before, strict=True)]
        """A name for each part, as no other part has it."""

    def __len__(self) -> int:
        """The number of pictures."""
        return self._ends[-1]

    def __getitem__(self, i: int) -> Tensor:
        """Picture `i`, RGB on white: uint8 (3, size, size)."""
        which, own = self._place(i)
        return self.parts[which][own]

    def captions(self, i: int) -> tuple[str, ...]:
        """All captions of picture `i`: at least one, always in the same order."""
        which, own = self._place(i)
        return self.parts[which].captions(own)

    def key(self, i: int) -> str:
        """A name for picture `i` that does not change when its source grows or shrinks."""
        which, own = self._place(i)
        part = self.parts[which]
        return self._own(which, part.corpus.keys[part.positions[own]])

    def group(self, i: int) -> str:
        """The group of picture `i`, such as an emoji with its skin tones. Training samples groups evenly."""
        which, own = self._place(i)
        part = self.parts[which]
        return self._own(which, part.corpus.group(part.positions[own]))

    def height(self, i: int) -> float:
        """The height of picture `i` in widths, above 0 to 1; below it the square is white."""
        which, own = self._place(i)
        part = self.parts[which]
        return part.corpus.height(part.positions[own])

    def verify(self) -> None:
        """Reads all pictures. Raises `BadInput` if any is not as it was rendered."""
        for part in self.parts:
            part.store.verify()

    def _place(self, i: int) -> tuple[int, int]:
        """The number of the part that picture `i` is in, and its index there. Raises `IndexError`."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        which = bisect(self._ends, i)
        return which, i - (self._ends[which - 1] if which else 0)

    def _own(self, which: int, name: str) -> str:
        """A name in a part, as no other part has it."""
        return name if len(self.parts) == 1 else f"{self._names[which]}/{name}"
