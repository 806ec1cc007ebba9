"""The vision transformers of ViT-VQGAN (arXiv 2110.04627): encoder and decoder of the image tokenizer.

Dimension names: B batch, N patches (h * w), D width, H heads, K head width.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from tokenizer.parts import BACKBONES, BackboneConfig
from training.attention import attention
from training.config import MAX_DEPTH, MAX_WIDTH, require, require_sizes
from training.recompute import call

_ROTARY_BASE = 100.0
"""Ratio of the fastest rotation to the slowest, about: grids have tens of rows, and not thousands as texts have."""


@BACKBONES.register("vit")
@dataclass(kw_only=True)
class ViTConfig(BackboneConfig):
    """Shape of the two vision transformers of ViT-VQGAN."""

    codes_only: ClassVar = frozenset({"encoder_depth", "stem"})
    pixels_only: ClassVar = frozenset({"decoder_depth", "decoder_width", "decoder_heads", "pixel_width"})
    training_only: ClassVar = frozenset({"recompute"})

    patch_size: int = 8
    """Height and width of a patch in pixels. Each patch becomes one code."""
    width: int = 256
    """Width of both transformers."""
    encoder_depth: int = 4
    """Blocks of the encoder."""
    decoder_depth: int = 6
    """Blocks of the decoder."""
    heads: int = 4
    """Attention heads. The width must be a multiple of them."""
    decoder_width: int | None = None
    """Width of the decoder. The default is `width`."""
    decoder_heads: int | None = None
    """Attention heads of the decoder. The default is `heads`."""
    pixel_width: int = 32
    """Channels of the decoder's convolutions, which smooth the borders of patches."""
    stem: Literal["patch", "conv"] = "patch"
    """How the encoder embeds patches: each alone by a linear map, or all by convolutions that overlap their borders."""
    positions: Literal["learned", "rotary"] = "learned"
    """Positions: a learned embedding of each row and column, or rotations of queries and keys (arXiv 2104.09864)."""
    qk_norm: bool = False
    """Normalise queries and keys (arXiv 2302.05442), which keeps the attention of large models stable."""
    recompute: bool = False
    """Compute activations again in the backward pass instead of keeping them, to save memory."""

    def __post_init__(self) -> None:
        require_sizes(
            self, patch_size=2**14, width=MAX_WIDTH, encoder_depth=MAX_DEPTH, decoder_depth=MAX_DEPTH,
            heads=MAX_WIDTH, pixel_width=MAX_WIDTH,
        )  # fmt: skip
        own = {name: MAX_WIDTH for name in ("decoder_width", "decoder_heads") if getattr(self, name) is not None}
        require_sizes(self, **own)
        power = self.patch_size > 1 and self.patch_size & (self.patch_size - 1) == 0
        require(self, "patch_size", self.stem == "patch" or power, "2, 4, 8 or another power of 2 for the stem 'conv'")
        each = 4 if self.positions == "rotary" else 1  # a pair of dimensions for rows, and a pair for columns
        for width, heads in (("width", "heads"), ("decoder_width", "decoder_heads")):
            count = getattr(self, heads) or self.heads
            wanted = f"a multiple of {heads} {count}" + (" times 4, for rotary positions" if each == 4 else "")
            require(self, width, (getattr(self, width) or self.width) % (count * each) == 0, wanted)

    @property
    def factor(self) -> int:
        """Height and width in pixels that one code represents."""
        return self.patch_size

    def encoder(self, image_size: int) -> "Encoder":
        """Build the encoder."""
        return Encoder(self, image_size)

    def decoder(self, image_size: int) -> "Decoder":
        """Build the decoder."""
        return Decoder(self, image_size)


class Attention(nn.Module):
    """Multi-head self-attention over all patches."""

    def __init__(self, width: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_q, self.norm_k = (HeadNorm(width // heads) if qk_norm else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor, angles: Tensor | None = None) -> Tensor:
        """(B, N, D), angles (N, K / 2) of rotary positions -> (B, N, D)."""
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        q, k = self.norm_q(q), self.norm_k(k)
        if angles is not None:
            q, k = rotated(q, angles), rotated(k, angles)
        return self.out(rearrange(attention(q.to(v.dtype), k.to(v.dtype), v), "b h n d -> b n (h d)"))


class HeadNorm(nn.RMSNorm):
    """Normalises the vectors of each head, in the precision of its weight also under autocast."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., K)."""
        return super().forward(x.to(self.weight.dtype))


def rotary_angles(h: int, w: int, head_width: int, device: torch.device) -> Tensor:
    """Angles by which the pairs of dimensions of a head are turned at each position of a grid, in raster order.

    Half of the pairs are turned in proportion to the row, the other half to the column (arXiv 2403.13298).

    Returns:
        (h * w, head_width / 2) float32.
    """
    count = head_width // 4
    speeds = _ROTARY_BASE ** (-torch.arange(count, device=device, dtype=torch.float32) / count)
    rows, columns = (torch.arange(n, device=device)[:, None] * speeds for n in (h, w))
    grid = rows[:, None].expand(h, w, count), columns[None].expand(h, w, count)
    return torch.cat(grid, -1).flatten(0, 1)


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Turn each pair of dimensions, i and i + K / 2, of (..., N, K) by angles (N, K / 2), in float32."""
    first, second = x.float().chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads, qk_norm)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, angles: Tensor | None = None) -> Tensor:
        """(B, N, D), angles (N, K / 2) of rotary positions -> (B, N, D)."""
        x = x + self.attention(self.norm1(x), angles)
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Blocks over a grid of vectors, with learned embeddings of rows and columns, or with rotary positions."""

    def __init__(
        self, grid: int, width: int, depth: int, heads: int, *, rotary: bool = False, qk_norm: bool = False,
        recompute: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.rotary, self.head_width, self.recompute = rotary, width // heads, recompute
        if not rotary:
            self.rows = nn.Parameter(torch.randn(grid, 1, width) * 0.02)
            self.columns = nn.Parameter(torch.randn(1, grid, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, qk_norm) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, D) -> (B, h, w, D), h and w at most the grid."""
        _, h, w, _ = x.shape
        angles = rotary_angles(h, w, self.head_width, x.device) if self.rotary else None
        if not self.rotary:
            x = x + self.rows[:h] + self.columns[:, :w]
        x = rearrange(x, "b h w d -> b (h w) d")
        for block in self.blocks:
            x = call(block, x, angles, recompute=self.recompute)
        return rearrange(self.norm(x), "b (h w) d -> b h w d", h=h)


class PatchEmbedding(nn.Linear):
    """A linear map of the pixels of each patch."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__(3 * patch_size**2, width)
        self.patch_size = patch_size

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, h * p, w * p) -> (B, h, w, D)."""
        p = self.patch_size
        return super().forward(rearrange(images, "b c (h p) (w q) -> b h w (c p q)", p=p, q=p))


class ConvStem(nn.Module):
    """Convolutions that halve height and width (arXiv 2106.14881), instead of an embedding of patches.

    Each code sees up to a patch of pixels around its own patch. Channels double with every halving, up to the width.
    """

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        halvings = patch_size.bit_length() - 1
        channels = [3, *(max(1, width >> i) for i in reversed(range(halvings)))]
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GELU()]
        self.convolutions = nn.Sequential(*layers)
        self.norm, self.out = nn.LayerNorm(channels[-1]), nn.Linear(channels[-1], width)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, h * p, w * p) -> (B, h, w, D)."""
        return self.out(self.norm(rearrange(self.convolutions(images), "b d h w -> b h w d")))


class Encoder(nn.Module):
    """Image -> grid of vectors: an embedding of each patch, then a transformer."""

    def __init__(self, config: ViTConfig, image_size: int) -> None:
        super().__init__()
        stem = PatchEmbedding if config.stem == "patch" else ConvStem
        self.embed = stem(config.patch_size, config.width)
        self.transformer = Transformer(
            image_size // config.patch_size, config.width, config.encoder_depth, config.heads,
            rotary=config.positions == "rotary", qk_norm=config.qk_norm, recompute=config.recompute,
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, h * p, w * p) in [-1, 1] -> (B, h, w, D)."""
        return self.transformer(self.embed(images))


class Decoder(nn.Module):
    """Grid of vectors -> image: a transformer, then two convolutions over pixels that smooth the borders of patches."""

    def __init__(self, config: ViTConfig, image_size: int) -> None:
        super().__init__()
        self.patch_size, width = config.patch_size, config.decoder_width or config.width
        self.widen: nn.Module = nn.Identity() if width == config.width else nn.Linear(config.width, width)
        self.transformer = Transformer(
            image_size // config.patch_size, width, config.decoder_depth, config.decoder_heads or config.heads,
            rotary=config.positions == "rotary", qk_norm=config.qk_norm, recompute=config.recompute,
        )  # fmt: skip
        self.unembed = nn.Linear(width, config.pixel_width * config.patch_size**2)
        self.head = nn.Sequential(
            nn.Conv2d(config.pixel_width, config.pixel_width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(config.pixel_width, 3, 3, padding=1),
        )

    def forward(self, z: Tensor) -> Tensor:
        """(B, h, w, D) -> images (B, 3, h * p, w * p) about [-1, 1], not clamped."""
        p = self.patch_size
        z = self.transformer(self.widen(z))
        return self.head(rearrange(self.unembed(z), "b h w (c p q) -> b c (h p) (w q)", p=p, q=p))
