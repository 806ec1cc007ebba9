"""The vision transformers of ViT-VQGAN (arXiv 2110.04627): encoder and decoder of the image tokenizer.

Dimension names: B batch, N patches (h * w), D width, H heads.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from tokenizer.parts import BACKBONES, BackboneConfig
from training.attention import attention
from training.config import MAX_DEPTH, MAX_WIDTH, require, require_sizes


@BACKBONES.register("vit")
@dataclass(kw_only=True)
class ViTConfig(BackboneConfig):
    """Shape of the two vision transformers of ViT-VQGAN."""

    codes_only: ClassVar = frozenset({"encoder_depth"})
    pixels_only: ClassVar = frozenset({"decoder_depth", "pixel_width"})

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
    pixel_width: int = 32
    """Channels of the decoder's convolutions, which smooth the borders of patches."""

    def __post_init__(self) -> None:
        require_sizes(
            self, patch_size=2**14, width=MAX_WIDTH, encoder_depth=MAX_DEPTH, decoder_depth=MAX_DEPTH,
            heads=MAX_WIDTH, pixel_width=MAX_WIDTH,
        )  # fmt: skip
        require(self, "width", self.width % self.heads == 0, f"a multiple of heads {self.heads}")

    @property
    def factor(self) -> int:
        """Height and width in pixels that one code represents."""
        return self.patch_size

    def encoder(self, image_size: int) -> "Encoder":
        """Build the encoder."""
        return Encoder(image_size, self.patch_size, self.width, self.encoder_depth, self.heads)

    def decoder(self, image_size: int) -> "Decoder":
        """Build the decoder."""
        return Decoder(image_size, self.patch_size, self.width, self.decoder_depth, self.heads, self.pixel_width)


class Attention(nn.Module):
    """Multi-head self-attention over all patches."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        return self.out(rearrange(attention(q, k, v), "b h n d -> b n (h d)"))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Blocks over a grid of vectors, with a learned embedding for each row and for each column."""

    def __init__(self, grid: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(grid, 1, width) * 0.02)
        self.columns = nn.Parameter(torch.randn(1, grid, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, D) -> (B, h, w, D), h and w at most the grid."""
        _, h, w, _ = x.shape
        x = x + self.rows[:h] + self.columns[:, :w]
        x = self.norm(self.blocks(rearrange(x, "b h w d -> b (h w) d")))
        return rearrange(x, "b (h w) d -> b h w d", h=h)


class Encoder(nn.Module):
    """Image -> grid of vectors: a linear embedding of each patch, then a transformer."""

    def __init__(self, image_size: int, patch_size: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.embed = nn.Linear(3 * patch_size**2, width)
        self.transformer = Transformer(image_size // patch_size, width, depth, heads)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, h * p, w * p) in [-1, 1] -> (B, h, w, D)."""
        p = self.patch_size
        patches = rearrange(images, "b c (h p) (w q) -> b h w (c p q)", p=p, q=p)
        return self.transformer(self.embed(patches))


class Decoder(nn.Module):
    """Grid of vectors -> image: a transformer, then two convolutions over pixels that smooth the borders of patches."""

    def __init__(self, image_size: int, patch_size: int, width: int, depth: int, heads: int, pixel_width: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.transformer = Transformer(image_size // patch_size, width, depth, heads)
        self.unembed = nn.Linear(width, pixel_width * patch_size**2)
        self.head = nn.Sequential(
            nn.Conv2d(pixel_width, pixel_width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(pixel_width, 3, 3, padding=1),
        )

    def forward(self, z: Tensor) -> Tensor:
        """(B, h, w, D) -> images (B, 3, h * p, w * p) about [-1, 1], not clamped."""
        p = self.patch_size
        pixels = rearrange(self.unembed(self.transformer(z)), "b h w (c p q) -> b c (h p) (w q)", p=p, q=p)
        return self.head(pixels)
