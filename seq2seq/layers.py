"""Transformer layers of the token model: pre-norm, RMSNorm, attention with normalised queries and keys.

Dimension names: B batch, T queries, S keys, D width, H heads, K head width (D / H).
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
"""Takes in new keys and values (B, H, S, K), or nothing; returns all that may be attended on."""


class Text(NamedTuple):
    """Captions, as the decoder attends on them."""

    mask: Tensor
    """bool (B, 1, 1, S), False at padding."""
    states: Tensor | None = None
    """(B, S, D); None where a cache has kept what the blocks made of them."""
    null: Tensor | None = None
    """State of the null caption (1, 1, D), for guidance."""


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
            x: what queries are made of.
            source: what new keys and values are made of, (B, S, D); None where all are in the memory.
            memory: takes the new ones in and says what to attend on; by default the new ones alone.
            mask: bool, True where attention is allowed, broadcast to (B, H, T, S).
            causal: query t attends on keys 0..t alone.
        """
        new: tuple[Tensor, ...] = ()
        if source is not None:
            k, v = rearrange(self.key_value(source), "b s (two h k) -> two b h s k", two=2, h=self.heads)
            new = self.key_norm(k), v
        k, v = memory(*new) if memory else new
        if not x.shape[1]:  # nothing is asked, the memory was to be filled
            return x
        q = self.query_norm(rearrange(self.query(x), "b t (h k) -> b h t k", h=self.heads))
        y = attention(q, k, v, mask=mask, causal=causal)
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
        x = x + self.dropout(self.attention(normed, normed, mask=mask))
        return x + self.dropout(self.mlp(self.norm2(x)))


class CrossBlock(nn.Module):
    """The layers of a block that attends on its own sequence, then on the caption, and has an MLP."""

    def __init__(self, width: int, heads: int, mlp_width: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.attention = RMSNorm(width), Attention(width, heads)
        self.norm2, self.cross = RMSNorm(width), Attention(width, heads)
        self.norm3, self.mlp = RMSNorm(width), MLP(width, mlp_width)
        self.dropout = nn.Dropout(dropout)


class DecoderBlock(CrossBlock):
    """Causal self-attention over image tokens, cross-attention to the caption, then an MLP."""

    def forward(self, x: Tensor, text: Text, past: BlockCache | None = None) -> Tensor:
        """One or more new image tokens (B, T, D) -> (B, T, D).

        Args:
            x: with `past`, tokens to be appended to it; without, the whole sequence. Where `past` is guided, the second
                half of them has the null caption.
            text: the captions. With their states, a pass with `past` is the one that reads them: it has no tokens.
            past: this block's cache.
        """
        if past and text.states is not None:
            self.cross(x, text.states, past.text)
            if text.null is not None:  # one id: there is nothing to choose from, so every query reads the same
                past.keep_null(self.cross(text.null, text.null))
            return x
        normed = self.norm1(x)
        if past is None:
            y = self.attention(normed, normed, causal=True)
        else:
            y = self.attention(normed, normed, past.own, mask=past.mask)
        x = x + self.dropout(y)
        said = past.text if past else None
        y = self.cross(self.norm2(x[: len(text.mask)]), text.states, said, mask=text.mask)
        if past and past.guided:
            y = torch.cat([y, past.null.expand_as(y)])
        x = x + self.dropout(y)
        return x + self.dropout(self.mlp(self.norm3(x)))
