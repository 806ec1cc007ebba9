"""The upsampler: a small convolutional network that enlarges pictures (Parti, arXiv 2206.10789, section 2.1).

It is built as the generators of EDSR (arXiv 1707.02921) and ESRGAN (arXiv 1809.00219): residual in residual, without
batch norm, then pixel shuffles. Dimension names: B batch, h and w pixels of the small picture, s scale, D width.
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizer.image_tokenizer import to_float, to_uint8
from training.config import MAX_DEPTH, MAX_WIDTH, require, require_sizes
from training.errors import BadInput
from training.pretrained import PretrainedModel


@dataclass(kw_only=True)
class UpsamplerConfig:
    """Shape of the upsampler."""

    scale: int = 4
    """How many times width and height grow: 2 or 4."""
    width: int = 48
    """Channels."""
    groups: int = 3
    """Groups of blocks, each with a skip connection."""
    blocks: int = 4
    """Residual blocks in a group."""

    def __post_init__(self) -> None:
        require(self, "scale", self.scale in (2, 4), "2 or 4")
        require_sizes(self, width=MAX_WIDTH, groups=MAX_DEPTH, blocks=MAX_DEPTH)
        most = MAX_DEPTH // self.groups
        require(self, "blocks", self.blocks <= most, f"at most {most} with groups {self.groups}")


class Residual(nn.Module):
    """x + 0.2 times what the layers make of it (ESRGAN, section 3.1: larger residuals made training unstable)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) -> the same."""
        return x + 0.2 * self.layers(x)


class Upsampler(PretrainedModel):
    """Enlarges pictures of any size. It adds what its layers find to a bicubic enlargement."""

    config_class = UpsamplerConfig
    config: UpsamplerConfig

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        self.config = config
        width, last = config.width, _conv(config.width, 3)
        nn.init.zeros_(last.weight)  # training starts from the bicubic enlargement
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.layers = nn.Sequential(
            _conv(3, width),
            Residual(*(_group(width, config.blocks) for _ in range(config.groups)), _conv(width, width)),
            *(_doubled(width) for _ in range(config.scale // 2)),  # 2 is doubled once, 4 twice
            last,
        )

    @classmethod
    def from_pretrained(cls, path: Any, *, dtype: torch.dtype | None = torch.float32, **kwargs: Any) -> Self:
        """Load as the base class does, but in float32 whatever the file's dtype."""
        return super().from_pretrained(path, dtype=dtype, **kwargs)

    def forward(self, images: Tensor) -> Tensor:
        """Float pictures (B, 3, h, w) in [-1, 1] -> (B, 3, s * h, s * w) about [-1, 1], not clamped."""
        found = self.layers(images.contiguous(memory_format=torch.channels_last))  # in which convolutions are faster
        return enlarged(images, self.config.scale) + found

    @torch.no_grad()
    def upsample(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, h, w) uint8 -> (B, 3, s * h, s * w) uint8. Raises `BadInput` for another shape or dtype."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
            raise BadInput(f"pictures are {images.dtype} of shape {tuple(images.shape)}: must be uint8 (B, 3, h, w)")
        return to_uint8(self(to_float(images)))


def enlarged(images: Tensor, scale: int) -> Tensor:
    """Enlarge as Pillow's bicubic filter does: floats (B, 3, h, w) -> (B, 3, scale * h, scale * w), not clamped."""
    size = [scale * pixels for pixels in images.shape[2:]]
    return F.interpolate(images, size=size, mode="bicubic", antialias=True)


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _group(width: int, blocks: int) -> Residual:
    return Residual(*(_block(width) for _ in range(blocks)), _conv(width, width))


def _block(width: int) -> Residual:
    return Residual(_conv(width, width), nn.LeakyReLU(0.2), _conv(width, width))


def _doubled(width: int) -> nn.Sequential:
    return nn.Sequential(_conv(width, 4 * width), nn.PixelShuffle(2), nn.LeakyReLU(0.2))
