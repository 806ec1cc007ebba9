"""The KV cache of the image-token decoder."""

import torch
from torch import Tensor

from seq2seq.layers import KeysValues, Past


class KVCache:
    """Keys and values of all blocks: of the caption, computed once, and of the image tokens, filled step by step.

    Everything is allocated at the start; a step writes in place. With 2 blocks, 4 heads of 64, 65 positions and a
    batch of 8, `keys` and `values` are each (2, 8, 4, 65, 64); step t writes `keys[:, :, :, t]` and attends on
    `keys[:, :, :, : t + 1]`:

        step 0 (BOS)   k0 .  .  .      token 0 is drawn from position 0
        step 1 (y0)    k0 k1 .  .      token 1 is drawn from position 1
    """

    def __init__(self, text: list[KeysValues], text_mask: Tensor, positions: int) -> None:
        """`text`: a block's (B, H, S, K) keys and values of the caption; `text_mask`: bool (B, 1, 1, S)."""
        self.text, self.text_mask = text, text_mask
        key = text[0][0]
        batch, heads, _, head_width = key.shape
        shape = (len(text), batch, heads, positions, head_width)
        self.keys = torch.zeros(shape, dtype=key.dtype, device=key.device)
        self.values = torch.zeros_like(self.keys)

    def past(self, block: int, position: int) -> Past:
        """The view of block number `block` when the token at `position` is appended."""
        return Past(self.keys[block], self.values[block], position)
