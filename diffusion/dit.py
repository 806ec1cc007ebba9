"""The diffusion transformer (DiT, arXiv 2212.09748). Each latent of the image tokenizer is a token.

The time enters by adaLN-zero. All blocks share its regression (adaLN-single, PixArt-alpha, arXiv 2310.00426, section
2.3), so a block has as many parameters as a block of the token decoder. Captions enter by cross-attention, and their
mean state is added to the time embedding, as in Imagen (arXiv 2205.11487), so that every latent knows the subject.

Dimension names: B batch, N latents of a picture (h * w), S caption ids, D width, C channels of a latent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn

from diffusion.condition import CaptionCache, TimeEmbedding, mean_state, view_per_reader
from seq2seq.layers import CrossBlock, Memory, RMSNorm
from training.config import MAX_DEPTH, MAX_WIDTH, require, require_sizes
from training.recompute import call

_EMBEDDING_STD = 0.4
"""Standard deviation of initial position embeddings. Smaller ones are lost in what blocks add, as with text."""


@dataclass(kw_only=True)
class DiTConfig:
    """Shape of the diffusion transformer."""

    mlp_width: int = 1024
    """Hidden width of the MLPs."""
    heads: int = 4
    """Attention heads. The width must be a multiple of them."""
    depth: int = 6
    """Number of blocks."""
    dropout: float = 0.1
    """Dropout on the output of every attention and MLP."""
    recompute: bool = False
    """Compute activations again in the backward pass instead of keeping them, to save memory."""

    def __post_init__(self) -> None:
        require_sizes(self, mlp_width=4 * MAX_WIDTH, heads=MAX_WIDTH, depth=MAX_DEPTH)
        require(self, "dropout", 0 <= self.dropout < 1, "from 0 to below 1")


class DiT(nn.Module):
    """Noisy latents, time and caption states -> a prediction for each latent."""

    def __init__(self, config: DiTConfig, width: int, channels: int, out_channels: int, grid: int) -> None:
        super().__init__()
        self.embed = nn.Linear(channels, width)
        self.rows = nn.Parameter(torch.randn(grid, 1, width) * _EMBEDDING_STD)
        self.columns = nn.Parameter(torch.randn(1, grid, width) * _EMBEDDING_STD)
        self.time = TimeEmbedding(width)
        self.pool = nn.Linear(width, width)
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks: Sequence[Block] = nn.ModuleList(  # type: ignore[assignment]
            Block(width, config.heads, config.mlp_width, config.dropout) for _ in range(config.depth)
        )
        self.recompute = config.recompute
        self.norm = RMSNorm(width)
        self.last_modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, out_channels)
        self.apply(_initialize)
        nn.init.normal_(self.embed.weight, std=channels**-0.5)
        # adaLN-zero: at first, every block is the identity and the prediction is zero
        for layer in (self.modulation, self.last_modulation, self.head, *(block.cross.out for block in self.blocks)):
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor, t: Tensor, states: Tensor | None, caption: CaptionCache) -> Tensor:
        """Latents (B, C, h, w), times (B,) or (1,) from 0 (clean) to 1 (noise) -> (B, C out, h, w).

        Reads the caption states (B, S, D) into `caption`; `states` is None once that is done.
        """
        views = view_per_reader(states, len(self.blocks))
        if states is not None:
            caption.pooled = self.pool(mean_state(states, caption.mask[:, 0, 0]))
        h, w = x.shape[2:]
        y = self.embed(rearrange(x, "b c h w -> b h w c")) + self.rows[:h] + self.columns[:, :w]
        y = rearrange(y, "b h w d -> b (h w) d")
        time = nn.functional.silu(self.time(t) + caption.pooled)
        modulation = rearrange(self.modulation(time), "b (six d) -> b six d", six=6)
        for i, block in enumerate(self.blocks):
            arguments = (y, modulation, views[i], caption.mask, partial(caption.keep, i))
            y = call(block, *arguments, recompute=self.recompute)
        shift, scale = self.last_modulation(time)[:, None].chunk(2, dim=-1)
        return rearrange(self.head(_modulated(self.norm(y), shift, scale)), "b (h w) c -> b c h w", h=h)


class Block(CrossBlock):
    """Self-attention over latents, cross-attention to the caption, and an MLP; time modulates the first and last."""

    def __init__(self, width: int, heads: int, mlp_width: int, dropout: float) -> None:
        super().__init__(width, heads, mlp_width, dropout)
        self.table = nn.Parameter(torch.zeros(6, width))  # added to the shared modulation, for this block

    def forward(self, x: Tensor, modulation: Tensor, states: Tensor | None, mask: Tensor, kept: Memory) -> Tensor:
        """(B, N, D), modulation by time (B, 6, D), caption states (B, S, D) or None once they are read -> (B, N, D)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (modulation + self.table)[:, :, None].unbind(1)  # (B, 1, D)
        normed = _modulated(self.norm1(x), shift1, scale1)
        x = x + gate1 * self.dropout(self.attention(normed, normed))
        x = x + self.dropout(self.cross(self.norm2(x), states, kept, mask=mask))
        return x + gate2 * self.dropout(self.mlp(_modulated(self.norm3(x), shift2, scale2)))


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
