"""The KV cache of the image-token decoder."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one attention, each (B, G, S, K): G heads of width K."""


class Positions(NamedTuple):
    """Positions of the new tokens of each picture.

    No tensor shape depends on the values of `at`. So pictures of a batch may be at different positions, and a graph
    that is traced once works for all.
    """

    at: Tensor
    """Positions (B, T) int64, on the model's device; without a cache (T,)."""
    until: int | None = None
    """A limit above all positions. The cache is read only before it; by default, all of the cache is read."""
    together: bool = False
    """Whether T is 1 and all positions are `until` - 1. Then no mask is needed."""

    def mask(self, count: int) -> Tensor | None:
        """Causal mask over a cache of `count` positions: bool (B, 1, T, until), True where attention is allowed.

        None where no mask is needed.
        """
        if self.together:
            return None
        until = count if self.until is None else self.until
        return (torch.arange(until, device=self.at.device) <= self.at[..., None])[:, None]


class KVCache:
    """Keys and values of all blocks: of the captions, computed once, and of the image tokens, added at every step.

    Steps write in place, and a cache can be used again for another batch of the same size. With 4 heads of width 64,
    65 positions and a batch of 8, each block's keys and values are (8, 4, 65, 64). If all pictures are at position t, a
    step writes `keys[:, :, t]` and attends to `keys[:, :, : t + 1]`:

        step 0 (BOS)   k0 .  .  .      token 0 is drawn from position 0
        step 1 (y0)    k0 k1 .  .      token 1 is drawn from position 1

    Otherwise each picture writes at its own position, and a mask hides later positions.
    """

    def __init__(self, depth: int, heads: int, head_width: int, positions: int, guided: bool = False) -> None:
        """Allocate nothing yet: `begin` does.

        Args:
            depth: number of blocks.
            heads: number of heads of keys and values, G.
            head_width: their width, K.
            positions: largest number of image tokens in a picture, with BOS.
            guided: whether there are two pictures for each caption, for classifier-free guidance. The second half of
                the pictures then has the null caption.
        """
        self.depth, self.heads, self.head_width = depth, heads, head_width
        self.positions, self.guided = positions, guided
        self.keys: list[Tensor] = []
        """Image-token keys of each block, (pictures, G, positions, K)."""
        self.values: list[Tensor] = []
        """Like `keys`."""
        empty = torch.empty(0)
        self.text_mask = empty
        """bool (B, 1, 1, S), False at padding."""
        self.text = [empty] * 2 * depth
        """Caption keys and values, (B, G, S, K) each: keys of block 0, values of block 0, keys of block 1, ..."""
        self.null = [empty] * depth
        """With guidance, the output of each block's cross-attention to the null caption, (1, 1, D)."""

    def begin(self, states: Tensor, mask: Tensor) -> None:
        """Begin a new batch of captions: `states` (B, S, D), `mask` bool (B, 1, 1, S), False at padding.

        The first call allocates memory for their number of pictures, on their device and in their dtype.
        """
        self.text_mask = _store(self.text_mask, mask)
        if not self.keys:
            pictures = len(states) * (2 if self.guided else 1)
            shape = (pictures, self.heads, self.positions, self.head_width)
            self.keys, self.values = ([states.new_zeros(shape) for _ in range(self.depth)] for _ in range(2))

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of the cache."""
        return [*self.keys, *self.values, self.text_mask, *self.text, *self.null]

    @property
    def nbytes(self) -> int:
        """Allocated bytes: 2 * blocks * heads * head width * (pictures * positions + captions * ids) * bytes a number,
        plus the captions' mask and `null`."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def without_guidance(self) -> "KVCache":
        """A view of the pictures with captions, without the half with the null caption: for steps after guidance."""
        view, captions = copy.copy(self), len(self.text_mask)
        view.guided = False
        view.keys, view.values = ([tensor[:captions] for tensor in tensors] for tensors in (self.keys, self.values))
        return view

    def captions(self, rows: slice) -> "KVCache":
        """A view of some captions, into which as many others can be read. Null captions are not in it."""
        view = copy.copy(self)
        view.guided = False
        view.text_mask, view.text = self.text_mask[rows], [tensor[rows] for tensor in self.text]
        return view

    def widen(self, ids: int) -> None:
        """Make room for captions of this many ids, if there is less: as padding after the present ones."""
        if (more := ids - self.text_mask.shape[3]) > 0:
            self.text_mask = F.pad(self.text_mask, (0, more))
            self.text = [F.pad(tensor, (0, 0, 0, more)) for tensor in self.text]

    def at(self, positions: Positions) -> "list[BlockCache]":
        """The part of each block, for a pass over new tokens at `positions`."""
        mask = positions.mask(self.positions)
        return [BlockCache(self, block, positions, mask) for block in range(self.depth)]


class BlockCache:
    """The part of the cache that one block reads and writes in a pass. `own` and `text` are memories for attention."""

    def __init__(self, cache: KVCache, block: int, positions: Positions, mask: Tensor | None) -> None:
        self._cache, self._block, self._positions = cache, block, positions
        self.mask, self.guided, self.null = mask, cache.guided, cache.null[block]

    def own(self, *new: Tensor) -> KeysValues:
        """Write keys and values of new image tokens, (B, G, T, K), at their positions; return all before `until`."""
        keys, values = self._cache.keys[self._block], self._cache.values[self._block]
        at, until, together = self._positions
        for cached, added in zip((keys, values), new, strict=True):
            if together and until:
                cached[:, :, until - 1 : until] = added
            else:
                cached.scatter_(2, at[:, None, :, None].expand_as(added), added)
        return keys[:, :, :until], values[:, :, :until]

    def text(self, *new: Tensor) -> KeysValues:
        """Store keys and values of new captions, if there are any; return the stored ones, (B, G, S, K)."""
        stored, part = self._cache.text, slice(2 * self._block, 2 * self._block + 2)
        if new:
            stored[part] = map(_store, stored[part], new)
        keys, values = stored[part]
        return keys, values

    def keep_null(self, new: Tensor) -> None:
        """Store the output of cross-attention to the null caption, (1, 1, D)."""
        self._cache.null[self._block] = _store(self.null, new)


def _store(old: Tensor, new: Tensor) -> Tensor:
    """Return `new`. If `old` has the same shape, it is overwritten, because a CUDA graph reads from there."""
    return old.copy_(new) if old.shape == new.shape else new.contiguous()
