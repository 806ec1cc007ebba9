"""The KV cache of the image-token decoder."""

import copy
from dataclasses import dataclass, replace
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


@dataclass(eq=False)
class BlockCache:
    """What one block keeps from pass to pass. Whatever has its shape is written in place, where a graph finds it."""

    keys: Tensor
    """Of the image tokens, (pictures, H, positions, K)."""
    values: Tensor
    text_keys: Tensor
    """Of the captions, (B, H, S, K)."""
    text_values: Tensor
    null: Tensor
    """With guidance, what the block reads in the null caption, (1, 1, D)."""


class Past:
    """A block's cache, as one pass over new tokens sees it: two memories of `Attention`, and a third."""

    def __init__(self, block: BlockCache, positions: Positions, mask: Tensor | None, guided: bool) -> None:
        self._block, self._positions, self.mask, self.guided = block, positions, mask, guided

    def own(self, *new: Tensor) -> KeysValues:
        """Writes keys and values of new tokens, (B, H, T, K), at their positions; returns all up to `until`."""
        block, (at, until, together) = self._block, self._positions
        for old, one in zip((block.keys, block.values), new, strict=True):
            if together and until:
                old[:, :, until - 1 : until] = one
            else:
                old.scatter_(2, at[:, None, :, None].expand_as(one), one)
        return block.keys[:, :, :until], block.values[:, :, :until]

    def text(self, *new: Tensor) -> KeysValues:
        """Keeps keys and values of new captions, if there are any; returns those that are kept."""
        block = self._block
        if new:
            block.text_keys, block.text_values = map(kept, (block.text_keys, block.text_values), new)
        return block.text_keys, block.text_values

    def null(self, new: Tensor | None) -> Tensor:
        """As `text`, of what is read in the null caption."""
        if new is not None:
            self._block.null = kept(self._block.null, new)
        return self._block.null


class KVCache:
    """Keys and values of all blocks: of the captions, made once, and of the image tokens, filled step by step.

    It serves any number of drawings of as many pictures, and a step writes in place. With 4 heads of 64, 65 positions
    and a batch of 8, each block's `keys` and `values` are (8, 4, 65, 64). Where all pictures stand at position t, a
    step writes `keys[:, :, t]` and attends on `keys[:, :, : t + 1]`:

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
        self.text_mask = torch.empty(0)
        self.blocks: list[BlockCache] = []

    def begin(self, states: Tensor, mask: Tensor) -> None:
        """Begins with captions of which `states` are (B, S, D) and `mask` is bool (B, 1, 1, S), False at padding.

        The first ones say for how many pictures to allocate, where and in which dtype.
        """
        self.text_mask = kept(self.text_mask, mask)
        if not self.blocks:
            pictures, width = len(states) * (2 if self.guided else 1), states.shape[2]
            shape, none = (pictures, self.heads, self.positions, width // self.heads), states.new_empty(0)
            for _ in range(self.depth):
                self.blocks.append(BlockCache(states.new_zeros(shape), states.new_zeros(shape), none, none, none))

    @property
    def tensors(self) -> list[Tensor]:
        """All that it holds."""
        return [self.text_mask, *(tensor for block in self.blocks for tensor in vars(block).values())]

    @property
    def nbytes(self) -> int:
        """Bytes allocated: 2 * blocks * heads * head width * (pictures * positions + captions * ids) * size, and the
        captions' mask and what is read in the null caption."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def with_captions(self) -> "KVCache":
        """A view of the pictures with captions: what is left to do when guidance is over."""
        view, captions = copy.copy(self), len(self.text_mask)
        view.guided = False
        view.blocks = [replace(one, keys=one.keys[:captions], values=one.values[:captions]) for one in self.blocks]
        return view

    def at(self, positions: Positions) -> list[Past]:
        """Each block's part in a pass over new tokens at `positions`."""
        mask = positions.mask(self.positions)
        return [Past(block, positions, mask, self.guided) for block in self.blocks]


def kept(old: Tensor, new: Tensor) -> Tensor:
    """`new`, in the place of `old` where that has its shape."""
    return old.copy_(new) if old.shape == new.shape else new.contiguous()
