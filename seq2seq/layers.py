"""Transformer layers of the token model: pre-norm, RMSNorm, attention with normalised queries and keys.

Dimension names: B batch, T queries, S keys, D width, H heads, K head width (D / H).
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from training.attention import attention

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one attention, each (B, H, S, K)."""


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm (arXiv 1910.07467) whose gain takes the input's dtype: fused under autocast."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Multi-head attention of a sequence on itself or on another one.

    Queries and keys are RMS-normalised a head (arXiv 2302.05442, section 2), which keeps logits bounded in bf16.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.query_norm = RMSNorm(width // heads)
        self.key_norm = RMSNorm(width // heads)

    def keys_values(self, x: Tensor) -> KeysValues:
        """(B, S, D) -> the keys and values to attend on."""
        k, v = rearrange(self.key_value(x), "b s (two h k) -> two b h s k", two=2, h=self.heads)
        return self.key_norm(k), v

    def attend(self, x: Tensor, keys_values: KeysValues, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Queries from (B, T, D); `mask` is bool, True where attention is allowed, (B, 1, 1, S). Returns (B, T, D)."""
        q = self.query_norm(rearrange(self.query(x), "b t (h k) -> b h t k", h=self.heads))
        y = attention(q, *keys_values, mask=mask, causal=causal)
        return self.out(rearrange(y, "b h t k -> b t (h k)"))


class MLP(nn.Sequential):
    """Two linear layers with a GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.Linear(width, hidden, bias=False), nn.GELU(), nn.Linear(hidden, width, bias=False))


class EncoderBlock(nn.Module):
    """Self-attention over the caption, then an MLP."""

    def __init__(self, width: int, heads: int, mlp_width: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.attention = RMSNorm(width), Attention(width, heads)
        self.norm2, self.mlp = RMSNorm(width), MLP(width, mlp_width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, S, D), mask (B, 1, 1, S) -> (B, S, D)."""
        normed = self.norm1(x)
        x = x + self.dropout(self.attention.attend(normed, self.attention.keys_values(normed), mask=mask))
        return x + self.dropout(self.mlp(self.norm2(x)))


class DecoderBlock(nn.Module):
    """Causal self-attention over image tokens, cross-attention to the caption, then an MLP."""

    def __init__(self, width: int, heads: int, mlp_width: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.attention = RMSNorm(width), Attention(width, heads)
        self.norm2, self.cross = RMSNorm(width), Attention(width, heads)
        self.norm3, self.mlp = RMSNorm(width), MLP(width, mlp_width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        text: KeysValues,
        text_mask: Tensor,
        past: "Past | None" = None,
        null: Tensor | None = None,
    ) -> Tensor:
        """One or more new image tokens (B, T, D) -> (B, T, D).

        Args:
            x: with `past`, tokens to be appended to it; without, the whole sequence.
            text: keys and values of the caption for this block, from `self.cross.keys_values`.
            text_mask: bool (B, 1, 1, S), False at padding.
            past: this block's keys and values of the tokens before.
            null: what this block reads in the null caption, from `self.read_null`; then half of `x` has that caption,
                and `text` is of the first half.
        """
        normed = self.norm1(x)
        own = self.attention.keys_values(normed)
        if past is None:
            y = self.attention.attend(normed, own, causal=True)
        else:
            y = self.attention.attend(normed, past.append(own), mask=past.mask)
        x = x + self.dropout(y)
        y = self.cross.attend(self.norm2(x[: len(text_mask)]), text, mask=text_mask)
        x = x + self.dropout(y if null is None else torch.cat([y, null.expand_as(y)]))
        return x + self.dropout(self.mlp(self.norm3(x)))

    def read_null(self, state: Tensor) -> Tensor:
        """What cross-attention comes to for the null caption, whose state is (1, 1, D): it is one id, so there is
        nothing to choose from, and the same for every query. (1, 1, D)."""
        return self.cross.attend(state, self.cross.keys_values(state))


class Past:
    """A block's view of the KV cache: where the keys and values of new tokens go, and what there is to attend on.

    A position that is a number is that of one new token a picture, and cuts the cache there. Positions (B, T) int64 may
    differ from picture to picture and leave every shape as it is, so that a graph traced once fits all of them: then
    `mask`, bool (B, 1, T, positions of the cache), rules out what comes later.
    """

    def __init__(self, keys: Tensor, values: Tensor, at: int | Tensor, mask: Tensor | None) -> None:
        self._keys, self._values, self._at, self.mask = keys, values, at, mask

    def append(self, new: KeysValues) -> KeysValues:
        """Writes (B, H, T, K) at the positions, in place; returns all that may be attended on."""
        if isinstance(self._at, Tensor):
            where = self._at[:, None, :, None].expand_as(new[0])
            return self._keys.scatter_(2, where, new[0]), self._values.scatter_(2, where, new[1])
        until = self._at + 1
        self._keys[:, :, self._at : until] = new[0]
        self._values[:, :, self._at : until] = new[1]
        return self._keys[:, :, :until], self._values[:, :, :until]
