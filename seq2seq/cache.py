"""The KV cache of the image-token decoder."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one attention, each (B, H, S, K)."""


class Positions(NamedTuple):
    """Where the new tokens of each picture stand, and what the host knows of that.

    No shape depends on `at`: the pictures of a batch may stand at different places, and a graph traced once fits all.
    """

    at: Tensor
    """(B, T) int64, on the device; without a cache (T,)."""
    until: int | None = None
    """A bound that all are below: what a cache holds from there on is not read. By default all of it is."""
    together: bool = False
    """T is 1 and all are `until` - 1, so that nothing has to be ruled out."""

    def mask(self, count: int) -> Tensor | None:
        """What each token may attend on of a cache of `count` positions, bool (B, 1, T, until); None: on all of it."""
        if self.together:
            return None
        until = count if self.until is None else self.until
        return (torch.arange(until, device=self.at.device) <= self.at[..., None])[:, None]


class KVCache:
    """Keys and values of all blocks: of the captions, made once, and of the image tokens, filled step by step.

    It serves any number of drawings of as many pictures, and a step writes in place. With 4 heads of 64, 65 positions
    and a batch of 8, each block's keys and values are (8, 4, 65, 64). Where all pictures stand at position t, a step
    writes `keys[:, :, t]` and attends on `keys[:, :, : t + 1]`:

        step 0 (BOS)   k0 .  .  .      token 0 is drawn from position 0
        step 1 (y0)    k0 k1 .  .      token 1 is drawn from position 1

    Where they do not, each writes at its own position, and a mask rules out what comes later.
    """

    def __init__(self, depth: int, heads: int, positions: int, guided: bool = False) -> None:
        """Allocates nothing yet.

        Args:
            depth: blocks.
            heads: attention heads, H.
            positions: most image tokens a picture, BOS counted.
            guided: there are two pictures a caption, and the second half of them has the null caption.
        """
        self.depth, self.heads, self.positions, self.guided = depth, heads, positions, guided
        self.keys: list[Tensor] = []
        """Each block's, (pictures, H, positions, K)."""
        self.values: list[Tensor] = []
        none = torch.empty(0)
        self.text_mask = none
        """bool (B, 1, 1, S), False at padding."""
        self.text = [none] * 2 * depth
        """Each block's keys and values of the captions, one after the other, (B, H, S, K)."""
        self.null = [none] * depth
        """With guidance, what each block reads in the null caption, (1, 1, D)."""

    def begin(self, states: Tensor, mask: Tensor) -> None:
        """Begins with captions of which `states` are (B, S, D) and `mask` is bool (B, 1, 1, S), False at padding.

        The first ones say for how many pictures to allocate, where and in which dtype.
        """
        self.text_mask = _kept(self.text_mask, mask)
        if not self.keys:
            pictures, width = len(states) * (2 if self.guided else 1), states.shape[2]
            shape = (pictures, self.heads, self.positions, width // self.heads)
            self.keys, self.values = ([states.new_zeros(shape) for _ in range(self.depth)] for _ in range(2))

    @property
    def tensors(self) -> list[Tensor]:
        """All that it holds."""
        return [*self.keys, *self.values, self.text_mask, *self.text, *self.null]

    @property
    def nbytes(self) -> int:
        """Bytes allocated: 2 * blocks * heads * head width * (pictures * positions + captions * ids) * size, and the
        captions' mask and what is read in the null caption."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def without_guidance(self) -> "KVCache":
        """A view of the pictures with captions: what is left to do when guidance is over."""
        view, captions = copy.copy(self), len(self.text_mask)
        view.guided = False
        view.keys, view.values = ([tensor[:captions] for tensor in its] for its in (self.keys, self.values))
        return view

    def at(self, positions: Positions) -> "list[BlockCache]":
        """Each block's part in a pass over new tokens at `positions`."""
        mask = positions.mask(self.positions)
        return [BlockCache(self, block, positions, mask) for block in range(self.depth)]


class BlockCache:
    """A block's part of the cache, as one pass over new tokens sees it: `own` and `text` are memories for attention."""

    def __init__(self, cache: KVCache, block: int, positions: Positions, mask: Tensor | None) -> None:
        self._cache, self._block, self._positions = cache, block, positions
        self.mask, self.guided, self.null = mask, cache.guided, cache.null[block]

    def own(self, *new: Tensor) -> KeysValues:
        """Writes keys and values of new tokens, (B, H, T, K), at their positions; returns all up to `until`."""
        keys, values = self._cache.keys[self._block], self._cache.values[self._block]
        at, until, together = self._positions
        for old, one in zip((keys, values), new, strict=True):
            if together and until:
                old[:, :, until - 1 : until] = one
            else:
                old.scatter_(2, at[:, None, :, None].expand_as(one), one)
        return keys[:, :, :until], values[:, :, :until]

    def text(self, *new: Tensor) -> KeysValues:
        """Keeps keys and values of new captions, if there are any; returns those that are kept."""
        kept, its = self._cache.text, slice(2 * self._block, 2 * self._block + 2)
        if new:
            kept[its] = map(_kept, kept[its], new)
        keys, values = kept[its]
        return keys, values

    def keep_null(self, new: Tensor) -> None:
        """Keeps what is read in the null caption, (1, 1, D)."""
        self._cache.null[self._block] = _kept(self.null, new)


def _kept(old: Tensor, new: Tensor) -> Tensor:
    """`new`; in place where `old` has its shape, for there a graph finds it."""
    return old.copy_(new) if old.shape == new.shape else new.contiguous()
