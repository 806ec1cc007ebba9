"""Discriminators: networks that tell real pictures from made ones, for the adversarial loss.

Dimension names: B batch, H and W pixels, N logits of a picture (one for each patch, or one in all), C channels.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizer.features import FeatureNetwork
from training.config import MAX_WIDTH, require, require_sizes
from training.errors import BadInput
from training.parts import Registry, Tagged

DISCRIMINATORS: Registry[type["DiscriminatorConfig"]] = Registry("discriminator")


@dataclass(kw_only=True)
class DiscriminatorConfig(Tagged):
    """Config of a discriminator."""

    registry: ClassVar = DISCRIMINATORS

    @abstractmethod
    def build(self, image_size: int) -> nn.Module:
        """Build a module: images (B, 3, H, W) float in [-1, 1] -> logits (B, N), above 0 for real ones.

        Raises `BadInput` if it cannot take pictures of this size.
        """


@DISCRIMINATORS.register("patch")
@dataclass(kw_only=True)
class PatchConfig(DiscriminatorConfig):
    """PatchGAN (pix2pix, arXiv 1611.07004; VQGAN): a logit for each of many overlapping patches.

    Normalises each picture by itself, not over the batch, so real and made pictures do not mix.
    """

    width: int = 64
    """Channels of the first layer. They double with each halving, up to eight times as many."""
    halvings: int = 3
    """How many times width and height are halved. With 3, a logit sees 70 x 70 pixels; with 2, 34 x 34."""

    def __post_init__(self) -> None:
        require_sizes(self, width=MAX_WIDTH // 8, halvings=10)

    def build(self, image_size: int) -> nn.Module:
        """Build the module."""
        require(self, "halvings", image_size >= 3 * 2**self.halvings, f"less, for pictures of {image_size} pixels")
        widths = [self.width * min(2**i, 8) for i in range(self.halvings + 1)]
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i, (before, after) in enumerate(pairwise(widths), start=1):
            stride = 2 if i < self.halvings else 1
            layers += [nn.Conv2d(before, after, 4, stride, padding=1, bias=False), _norm(after), nn.LeakyReLU(0.2)]
        return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, padding=1), nn.Flatten())


@DISCRIMINATORS.register("stylegan")
@dataclass(kw_only=True)
class StyleGANConfig(DiscriminatorConfig):
    """Residual discriminator of StyleGAN2 (arXiv 1912.04958): one logit for the whole picture.

    Differs from the paper: pooling instead of blurred strides, and the usual initial weights and learning rates.
    """

    width: int = 32
    """Channels at full size. They double with each halving, up to `max_width`."""
    max_width: int = 512
    """Most channels."""
    group: int = 4
    """Pictures in a group whose standard deviation is a feature. Where the batch is no multiple, groups are smaller."""

    def __post_init__(self) -> None:
        require_sizes(self, width=MAX_WIDTH, max_width=MAX_WIDTH, group=1024)

    def build(self, image_size: int) -> nn.Module:
        """Build the module."""
        halvings = int(math.log2(image_size / 4)) if image_size >= 8 else 0
        if not halvings or image_size % 2**halvings:
            raise BadInput(
                f"discriminator 'stylegan' cannot halve pictures of {image_size} pixels down to 4 to 7: "
                "give a model.image_size that is a multiple of a larger power of 2, or discriminator 'patch'"
            )
        size, widths = image_size >> halvings, [min(self.width * 2**i, self.max_width) for i in range(halvings + 1)]
        last = widths[-1]
        return nn.Sequential(
            nn.Conv2d(3, widths[0], 1),
            nn.LeakyReLU(0.2),
            *(ResidualBlock(before, after) for before, after in pairwise(widths)),
            MinibatchDeviation(self.group),
            nn.Conv2d(last + 1, last, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(last * size**2, last),
            nn.LeakyReLU(0.2),
            nn.Linear(last, 1),
        )


@DISCRIMINATORS.register("features")
@dataclass(kw_only=True)
class FeaturesConfig(DiscriminatorConfig):
    """Small heads on feature maps of the frozen EfficientNet-Lite0 (Projected GAN, arXiv 2111.01007).

    Differs from the paper: the maps are not mixed at random, and each picture is normalised by itself.
    """

    width: int = 64
    """Channels of the heads."""
    size: int = 128
    """Size of pictures for the feature network, in pixels. It was trained at 224."""

    def __post_init__(self) -> None:
        require_sizes(self, width=MAX_WIDTH)
        require(self, "size", self.size >= 32 and self.size % 32 == 0, "a multiple of 32, the network's stride")

    def build(self, image_size: int) -> nn.Module:
        """Build the module."""
        return FeatureDiscriminator(self.width, self.size)


class ResidualBlock(nn.Module):
    """Two convolutions beside a linear path; both halve the size."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(before, before, 3, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(before, after, 3, padding=1), nn.LeakyReLU(0.2),
        )  # fmt: skip
        self.skip = nn.Conv2d(before, after, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / 2, W / 2)."""
        return (F.avg_pool2d(self.layers(x), 2) + self.skip(F.avg_pool2d(x, 2))) / math.sqrt(2)


class MinibatchDeviation(nn.Module):
    """Adds a channel: the mean standard deviation within groups of pictures (arXiv 1710.10196, section 3).

    It tells a generator that makes too similar pictures.
    """

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C + 1, H, W). Neighbors in the batch form a group."""
        group = math.gcd(self.group, len(x))
        variance = rearrange(x, "(n g) c h w -> n g c h w", g=group).var(1, correction=0)
        deviation = (variance + 1e-8).sqrt().mean((1, 2, 3))  # 1e-8: the root of 0 has no gradient
        return torch.cat([x, repeat(deviation, "n -> (n g) 1 h w", g=group, h=x.shape[2], w=x.shape[3])], 1)


class FeatureDiscriminator(nn.Module):
    """A head for each of the feature maps of strides 4 to 32. Each gives as many logits: (size / 32) squared."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.size, self.network = size, FeatureNetwork()
        self.heads = nn.ModuleList(_head(channels, width, 3 - i) for i, channels in enumerate((24, 40, 112, 320)))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) float in [-1, 1] -> logits (B, N)."""
        images = F.interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=False)
        _, *maps = self.network.stages(images)
        return torch.cat([head(feature) for head, feature in zip(self.heads, maps, strict=True)], 1)


def _head(channels: int, width: int, halvings: int) -> nn.Sequential:
    """Feature map (B, C, h, w) -> logits (B, h * w / 4**halvings)."""
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 1), nn.LeakyReLU(0.2)]
    for _ in range(halvings):
        layers += [nn.Conv2d(width, width, 4, stride=2, padding=1, bias=False), _norm(width), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 1), nn.Flatten())


def _norm(channels: int) -> nn.GroupNorm:
    """Groups of about 16 channels, because a group of one channel would lose the picture's brightness."""
    return nn.GroupNorm(math.gcd(channels, max(1, channels // 16)), channels)
