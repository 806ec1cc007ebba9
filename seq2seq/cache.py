"""The KV cache of the image-token decoder."""

from collections.abc import Sequence

import torch
from torch import Tensor

from seq2seq.layers import KeysValues, Past


class KVCache:
    """Keys and values of all blocks: of the caption, computed once, and of the image tokens, filled step by step.

    Everything is allocated once and serves any number of drawings of up to `batch` pictures; a step writes in place.
    With 2 blocks, 4 heads of 64, 65 positions and a batch of 8, `keys` and `values` are each (2, 8, 4, 65, 64); step t
    writes `keys[:, :, :, t]` and attends on `keys[:, :, :, : t + 1]`:

        step 0 (BOS)   k0 .  .  .      token 0 is drawn from position 0
        step 1 (y0)    k0 k1 .  .      token 1 is drawn from position 1
    """

    def __init__(self, text: Sequence[KeysValues], text_mask: Tensor, positions: int) -> None:
        """Allocates for as many pictures as there are captions, and takes these.

        Args:
            text: each block's (B, H, S, K) keys and values of the captions.
            text_mask: bool (B, 1, 1, S), False at padding.
            positions: most image tokens a picture, BOS counted.
        """
        key = text[0][0]
        batch, heads, _, head_width = key.shape
        self._take(text, text_mask)
        self.keys = key.new_zeros(len(text), batch, heads, positions, head_width)
        self.values = torch.zeros_like(self.keys)

    @property
    def nbytes(self) -> int:
        """Bytes allocated: 2 * blocks * batch * heads * (positions + captions' ids) * head width * size, and masks."""
        tensors = (self.keys, self.values, self.text_mask, *(t for pair in self.text for t in pair))
        return sum(t.nbytes for t in tensors)

    def refill(self, text: Sequence[KeysValues], text_mask: Tensor) -> bool:
        """Takes other captions, in place where they are as long. Returns False, and does nothing, where there is
        another number of them."""
        new = text[0][0]
        if new.shape[:2] != self.keys.shape[1:3] or new.dtype != self.keys.dtype:
            return False
        if new.shape == self.text[0][0].shape:
            for (k, v), (new_k, new_v) in zip(self.text, text, strict=True):
                k.copy_(new_k)
                v.copy_(new_v)
            self.text_mask.copy_(text_mask)
        else:
            self._take(text, text_mask)
        return True

    def _take(self, text: Sequence[KeysValues], text_mask: Tensor) -> None:
        self.text = [(k.contiguous(), v.contiguous()) for k, v in text]
        self.text_mask = text_mask

    def first(self, batch: int) -> "KVCache":
        """A view of the first `batch` pictures: what is left to do when the others are done."""
        view = object.__new__(KVCache)
        view.text = [(k[:batch], v[:batch]) for k, v in self.text]
        view.text_mask = self.text_mask[:batch]
        view.keys, view.values = self.keys[:, :batch], self.values[:, :batch]
        return view

    def at(self, positions: int | Tensor) -> list[Past]:
        """Each block's view when tokens at `positions` are appended: a number, or (B, T) int64 (see `Past`)."""
        mask = None
        if isinstance(positions, Tensor):
            mask = (torch.arange(self.keys.shape[3], device=positions.device) <= positions[..., None])[:, None]
        return [Past(self.keys[i], self.values[i], positions, mask) for i in range(len(self.keys))]
