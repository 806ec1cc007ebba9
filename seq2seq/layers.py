"""Transformer layers of the token model: pre-norm, RMSNorm, attention with normalised queries and keys.

Dimension names: B batch, T queries, S keys, D width, H heads, G heads of keys, K head width (D / H).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from seq2seq.cache import BlockCache, KeysValues
from training.attention import attention

Memory = Callable[..., KeysValues]
"""Stores new keys and values (B, G, S, K), or nothing; returns all keys and values to attend to."""


class Text(NamedTuple):
    """Captions, for the decoder's cross-attention."""

    mask: Tensor
    """bool (B, 1, 1, S), False at padding."""
    states: Tensor | None = None
    """Encoder states (B, S, D); None where a cache has the keys and values that the blocks made of them."""
    null: Tensor | None = None
    """State of the null caption (1, 1, D), for guidance."""


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm (arXiv 1910.07467). Its gain is cast to the input's dtype, so that autocast can fuse it."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Multi-head attention of a sequence to itself or to another one.

    Queries and keys of each head are RMS-normalised (arXiv 2302.05442, section 2), which keeps logits bounded in bf16.
    With fewer heads of keys than of queries, several heads share keys and values (arXiv 2305.13245).
    """

    def __init__(self, width: int, heads: int, key_heads: int | None = None) -> None:
        """`key_heads`: by default as many as `heads`."""
        super().__init__()
        self.heads, self.key_heads = heads, key_heads or heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * self.key_heads * (width // heads), bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.query_norm = RMSNorm(width // heads)
        self.key_norm = RMSNorm(width // heads)

    def forward(
        self,
        x: Tensor,
        source: Tensor | None,
        memory: Memory | None = None,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D).

        Args:
            x: the sequence that makes queries. With T = 0, the layer only fills the memory.
            source: the sequence that makes new keys and values, (B, S, D); None where all are in the memory.
            memory: stores new keys and values, and returns those to attend to; by default only the new ones.
            mask: bool, True where attention is allowed, broadcast to (B, H, T, S).
            causal: query t attends only to keys 0..t.
        """
        new: tuple[Tensor, ...] = ()
        if source is not None:
            k, v = rearrange(self.key_value(source), "b s (two h k) -> two b h s k", two=2, h=self.key_heads)
            new = self.key_norm(k), v
        k, v = memory(*new) if memory is not None else new
        if not x.shape[1]:  # no queries: this call only fills the memory
            return x
        q = self.query_norm(rearrange(self.query(x), "b t (h k) -> b h t k", h=self.heads))
        y = attention(q, k, v, mask=mask, causal=causal, groups=self.heads // self.key_heads)
        return self.out(rearrange(y, "b h t k -> b t (h k)"))


class MLP(nn.Sequential):
    """Two linear layers with a GELU between them."""

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
        x = x + self.dropout(self.attention(normed, normed, mask=mask))
        return x + self.dropout(self.mlp(self.norm2(x)))


class CrossBlock(nn.Module):
    """The layers of a block with self-attention, cross-attention to the caption, and an MLP."""

    def __init__(self, width: int, heads: int, mlp_width: int, dropout: float, key_heads: int | None = None) -> None:
        super().__init__()
        self.norm1, self.attention = RMSNorm(width), Attention(width, heads, key_heads)
        self.norm2, self.cross = RMSNorm(width), Attention(width, heads, key_heads)
        self.norm3, self.mlp = RMSNorm(width), MLP(width, mlp_width)
        self.dropout = nn.Dropout(dropout)


class DecoderBlock(CrossBlock):
    """Causal self-attention over image tokens, cross-attention to the caption, then an MLP."""

    def forward(self, x: Tensor, text: Text, cache: BlockCache | None = None) -> Tensor:
        """Image tokens (B, T, D) -> (B, T, D).

        Args:
            x: without a cache, the whole sequence; with a cache, new tokens, which are appended to it. With a guided
                cache, the second half of the batch has the null caption.
            text: the captions. With a cache and `text.states`, the call only reads the captions: `x` has no tokens.
            cache: this block's part of the cache.
        """
        if cache and text.states is not None:
            self.cross(x, text.states, cache.text)
            if text.null is not None:  # it is one id, so attention gives every query the same output
                cache.keep_null(self.cross(text.null, text.null))
            return x
        normed = self.norm1(x)
        if cache is None:
            y = self.attention(normed, normed, causal=True)
        else:
            y = self.attention(normed, normed, cache.own, mask=cache.mask)
        x = x + self.dropout(y)
        memory = cache.text if cache else None
        y = self.cross(self.norm2(x[: len(text.mask)]), text.states, memory, mask=text.mask)
        if cache and cache.guided:
            y = torch.cat([y, cache.null.expand_as(y)])
        x = x + self.dropout(y)
        return x + self.dropout(self.mlp(self.norm3(x)))
