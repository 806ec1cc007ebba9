"""The convolutional VQGAN (arXiv 2012.09841): encoder and decoder of the image tokenizer.

Its layers are those of taming-transformers, of LlamaGen, and of `VQModel` and `AutoencoderKL` in diffusers.

Dimension names: B batch, C channels, H and W height and width at a level, D width.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizer.parts import BACKBONES, BackboneConfig
from training.attention import attention
from training.config import MAX_DEPTH, MAX_WIDTH, require, require_sizes
from training.recompute import call

_MAX_LEVELS = 15
"""A picture has at most 2**14 pixels a row, and each level but the last halves it."""


@BACKBONES.register("conv")
@dataclass(kw_only=True)
class ConvConfig(BackboneConfig):
    """Shape of the convolutional encoder and decoder of VQGAN."""

    codes_only: ClassVar = frozenset({"encoder_blocks"})
    pixels_only: ClassVar = frozenset({"decoder_blocks"})
    training_only: ClassVar = frozenset({"recompute"})

    channels: int = 64
    """Channels of the first convolution, at full resolution."""
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    """Channels of each level, as multiples of `channels`. Each level after the first has half the resolution of the one
    before, so that four levels make one code of 8 x 8 pixels."""
    encoder_blocks: int = 2
    """Residual blocks of each level of the encoder."""
    decoder_blocks: int = 3
    """Residual blocks of each level of the decoder."""
    attention: tuple[int, ...] = (3,)
    """Levels with self-attention after each residual block; 0 is full resolution."""
    mid_attention: bool = True
    """Self-attention between the two residual blocks in the middle, where the resolution is lowest."""
    width: int = 256
    """Channels between encoder and quantizer, and between quantizer and decoder."""
    groups: int | None = None
    """Groups of the group norms; fewer where they do not divide the channels. By default 32, but at least four channels
    a group, as in VQGAN. A norm of one channel a group removes the mean of each channel, and color with it."""
    recompute: bool = False
    """Compute activations again in the backward pass instead of keeping them, to save memory."""

    def __post_init__(self) -> None:
        require_sizes(
            self, channels=MAX_WIDTH, encoder_blocks=MAX_DEPTH, decoder_blocks=MAX_DEPTH, width=MAX_WIDTH
        )  # fmt: skip
        require(self, "groups", self.groups is None or 1 <= self.groups <= MAX_WIDTH, f"from 1 to {MAX_WIDTH}")
        levels, most = len(self.multipliers), MAX_WIDTH // self.channels
        fits = 1 <= levels <= _MAX_LEVELS and 1 <= min(self.multipliers) <= max(self.multipliers) <= most
        require(self, "multipliers", fits, f"1 to {_MAX_LEVELS} numbers from 1 to {most}")
        for name in ("encoder_blocks", "decoder_blocks"):
            require(self, name, getattr(self, name) * levels <= MAX_DEPTH, f"at most {MAX_DEPTH // levels}")
        known = {*self.attention} <= {*range(levels)}
        require(self, "attention", known, f"levels from 0 to {levels - 1}")

    @property
    def factor(self) -> int:
        """Height and width in pixels that one code represents."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def level_channels(self) -> list[int]:
        """Channels of each level, from full resolution to the lowest."""
        return [self.channels * multiplier for multiplier in self.multipliers]

    def encoder(self, image_size: int) -> "Encoder":
        """Build the encoder, which takes pictures of any size."""
        return Encoder(self)

    def decoder(self, image_size: int) -> "Decoder":
        """Build the decoder, which takes grids of any size."""
        return Decoder(self)


class Residual(nn.Module):
    """Two convolutions, each after group norm and swish, beside a shortcut."""

    def __init__(self, before: int, after: int, groups: int | None) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(before, groups), nn.Conv2d(before, after, 3, padding=1)
        self.norm2, self.conv2 = _norm(after, groups), nn.Conv2d(after, after, 3, padding=1)
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C before, H, W) -> (B, C after, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    """Self-attention of one head over all positions, after group norm."""

    def __init__(self, channels: int, groups: int | None) -> None:
        super().__init__()
        self.norm = _norm(channels, groups)
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        y = rearrange(self.norm(x), "b c h w -> b 1 (h w) c")
        y = self.out(attention(self.query(y), self.key(y), self.value(y)))
        return x + rearrange(y, "b 1 (h w) c -> b c h w", h=x.shape[2])


class Down(nn.Module):
    """Halves height and width. Only the right and the lower edge are padded."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / 2, W / 2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Up(nn.Module):
    """Doubles height and width: each pixel is repeated, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Encoder(nn.Module):
    """Image -> grid of vectors."""

    def __init__(self, config: ConvConfig) -> None:
        super().__init__()
        channels, self.recompute = config.level_channels, config.recompute
        self.first = nn.Conv2d(3, config.channels, 3, padding=1)
        self.levels = nn.ModuleList()
        for level, (before, after) in enumerate(zip([config.channels, *channels], channels, strict=False)):
            blocks = _blocks(before, after, config.encoder_blocks, level in config.attention, config.groups)
            if level < len(channels) - 1:
                blocks["down"] = Down(after)
            self.levels.append(blocks)
        self.middle = _middle(channels[-1], config)
        self.last = _last(channels[-1], config.width, config.groups)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> (B, H / factor, W / factor, D)."""
        # channels last is the layout in which convolutions are fastest, on a CPU too
        x = self.first(images.contiguous(memory_format=torch.channels_last))
        blocks = [block for part in (*self.levels, self.middle) for block in part.values()]
        for block in blocks:
            x = call(block, x, recompute=self.recompute)
        return rearrange(self.last(x), "b d h w -> b h w d")


class Decoder(nn.Module):
    """Grid of vectors -> image. Its levels go from the lowest resolution to the full one."""

    def __init__(self, config: ConvConfig) -> None:
        super().__init__()
        channels, self.recompute = config.level_channels, config.recompute
        self.first = nn.Conv2d(config.width, channels[-1], 3, padding=1)
        self.middle = _middle(channels[-1], config)
        self.levels, before = nn.ModuleList(), channels[-1]
        for level, after in reversed([*enumerate(channels)]):
            blocks = _blocks(before, after, config.decoder_blocks, level in config.attention, config.groups)
            if level > 0:
                blocks["up"] = Up(after)
            self.levels.append(blocks)
            before = after
        self.last = _last(channels[0], 3, config.groups)

    def forward(self, z: Tensor) -> Tensor:
        """(B, h, w, D) -> images (B, 3, h * factor, w * factor) about [-1, 1], not clamped."""
        x = self.first(rearrange(z, "b h w d -> b d h w"))
        blocks = [block for part in (self.middle, *self.levels) for block in part.values()]
        for block in blocks:
            x = call(block, x, recompute=self.recompute)
        return self.last(x).contiguous()


def groups_of(channels: int, groups: int | None) -> int:
    """Groups of a norm of so many channels, with the option `groups` of `ConvConfig`."""
    return math.gcd(groups or min(32, max(1, channels // 4)), channels)


def _norm(channels: int, groups: int | None) -> nn.GroupNorm:
    return nn.GroupNorm(groups_of(channels, groups), channels, eps=1e-6)


def _blocks(before: int, after: int, count: int, attention: bool, groups: int | None) -> nn.ModuleDict:
    """The blocks of a level, by name, in the order in which they are applied."""
    blocks = nn.ModuleDict()
    for i in range(count):
        blocks[f"residual{i}"] = Residual(before if i == 0 else after, after, groups)
        if attention:
            blocks[f"attention{i}"] = Attention(after, groups)
    return blocks


def _middle(channels: int, config: ConvConfig) -> nn.ModuleDict:
    blocks = nn.ModuleDict({"residual0": Residual(channels, channels, config.groups)})
    if config.mid_attention:
        blocks["attention0"] = Attention(channels, config.groups)
    blocks["residual1"] = Residual(channels, channels, config.groups)
    return blocks


def _last(before: int, after: int, groups: int | None) -> nn.Sequential:
    return nn.Sequential(_norm(before, groups), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1))
