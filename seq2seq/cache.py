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

    def __init__(
        self, text: Sequence[KeysValues], text_mask: Tensor, positions: int, null: Tensor | None = None
    ) -> None:
        """Allocates for as many pictures as there are captions, or twice as many with `null`, and takes these.

        Args:
            text: each block's (B, H, S, K) keys and values of the captions.
            text_mask: bool (B, 1, 1, S), False at padding.
            positions: most image tokens a picture, BOS counted.
            null: (blocks, 1, 1, D), what each block reads in the null caption; B more pictures have that one.
        """
        key = text[0][0]
        batch, heads, _, head_width = key.shape
        self._take(text, text_mask, null)
        self.keys = key.new_zeros(len(text), batch * (1 if null is None else 2), heads, positions, head_width)
        self.values = torch.zeros_like(self.keys)

    @property
    def nbytes(self) -> int:
        """Bytes allocated: 2 * blocks * heads * head width * (pictures * positions + captions * ids) * size, and the
        captions' mask and what is read in the null caption."""
        return sum(tensor.nbytes for tensor in (self.keys, self.values, *self.of_text))

    @property
    def nulls(self) -> Sequence[Tensor | None]:
        """What each block reads in the null caption, (1, 1, D), or None without guidance."""
        return [None] * len(self.text) if self.null is None else self.null.unbind()

    @property
    def of_text(self) -> list[Tensor]:
        """All that other captions change."""
        return _tensors(self.text, self.text_mask, self.null)

    def refill(self, text: Sequence[KeysValues], text_mask: Tensor, null: Tensor | None) -> bool:
        """Takes other captions, in place where they are as long. Returns False, and does nothing, where there is
        another number of them."""
        new, old = text[0][0], self.text[0][0]
        if new.shape[:2] != old.shape[:2] or new.dtype != old.dtype or (null is None) != (self.null is None):
            return False
        if new.shape == old.shape:
            for mine, values in zip(self.of_text, _tensors(text, text_mask, null), strict=True):
                mine.copy_(values)
        else:
            self._take(text, text_mask, null)
        return True

    def _take(self, text: Sequence[KeysValues], text_mask: Tensor, null: Tensor | None) -> None:
        self.text = [(k.contiguous(), v.contiguous()) for k, v in text]
        self.text_mask, self.null = text_mask, null

    def with_captions(self) -> "KVCache":
        """A view of the pictures with captions: what is left to do when guidance is over."""
        view = object.__new__(KVCache)
        batch = len(self.text_mask)
        view.text, view.text_mask, view.null = self.text, self.text_mask, None
        view.keys, view.values = self.keys[:, :batch], self.values[:, :batch]
        return view

    def at(self, positions: int | Tensor) -> list[Past]:
        """Each block's view when tokens at `positions` are appended: a number, or (B, T) int64 (see `Past`)."""
        mask = None
        if isinstance(positions, Tensor):
            mask = (torch.arange(self.keys.shape[3], device=positions.device) <= positions[..., None])[:, None]
        return [Past(self.keys[i], self.values[i], positions, mask) for i in range(len(self.keys))]


def _tensors(text: Sequence[KeysValues], text_mask: Tensor, null: Tensor | None) -> list[Tensor]:
    return [text_mask, *(tensor for pair in text for tensor in pair), *([] if null is None else [null])]
