"""Interfaces of the parts of an image tokenizer: the backbone (encoder and decoder), and the quantizer between.

Dimension names: B batch, H and W pixels, h and w codes (H / factor), D width, C dimensions in which codes are compared.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from training.parts import Registry, Tagged

BACKBONES: Registry[type["BackboneConfig"]] = Registry("backbone")
QUANTIZERS: Registry[type["QuantizerConfig"]] = Registry("quantizer")


class PartConfig(Tagged, ABC):
    """Config of a part. It groups options by what they affect, so that ids can ignore the rest."""

    codes_only: ClassVar[frozenset[str]] = frozenset()
    """Options that affect only how codes are made, and not how they are decoded to pixels."""
    pixels_only: ClassVar[frozenset[str]] = frozenset()
    """Options that affect only how codes are decoded to pixels."""
    training_only: ClassVar[frozenset[str]] = frozenset()
    """Options that affect only training, and not what trained weights compute."""


@dataclass(kw_only=True)
class BackboneConfig(PartConfig):
    """Config of the encoder and the decoder. `width` and `factor` are options or properties."""

    registry: ClassVar = BACKBONES

    @property
    @abstractmethod
    def width(self) -> int:
        """Dimensions of the vectors that the encoder returns and the decoder takes, D."""

    @property
    @abstractmethod
    def factor(self) -> int:
        """Height and width in pixels that one code represents."""

    @abstractmethod
    def encoder(self, image_size: int) -> nn.Module:
        """Build a module: images (B, 3, H, W) float in [-1, 1] -> (B, h, w, D)."""

    @abstractmethod
    def decoder(self, image_size: int) -> nn.Module:
        """Build a module: (B, h, w, D), h at most w -> images (B, 3, H, W) about [-1, 1]."""


@dataclass(kw_only=True)
class QuantizerConfig(PartConfig):
    """Config of a quantizer.

    `size` and `dim` are options or properties, and so is the weight of each of its losses, by the name of the loss.
    """

    registry: ClassVar = QUANTIZERS

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of codes."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Dimensions in which vectors are compared with codes, C."""

    @abstractmethod
    def build(self, width: int) -> "Quantizer":
        """Build the module for vectors of this width, D.

        It must also work under `torch.device("meta")`, where tensors have no values and no memory, because configs
        from files are built there first. Build a submodule that reads its own values under `torch.device("cpu")`.
        """


class Quantizer(nn.Module, ABC):
    """Maps vectors to codes, and back. It is called with float32 and without autocast, which changed codes."""

    codes_tensors: ClassVar[tuple[str, ...]] = ("",)
    """Prefixes of the names of the tensors that affect which codes are chosen; by default all tensors."""
    pixels_tensors: ClassVar[tuple[str, ...]] = ("",)
    """Prefixes of the names of the tensors that affect how codes are decoded; by default all tensors."""

    @abstractmethod
    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(B, h, w, D) -> quantized (B, h, w, D), with gradients for z; codes (B, h, w) int64; losses by name."""

    @abstractmethod
    def vectors(self, z: Tensor) -> Tensor:
        """(B, h, w, D) -> the vectors that are compared with codes, (B, h, w, C)."""

    @abstractmethod
    def nearest(self, vectors: Tensor) -> Tensor:
        """Vectors from `vectors`, (B, h, w, C) -> codes (B, h, w) int64, the same as `forward` returns."""

    @abstractmethod
    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) int64 -> quantized (B, h, w, D), the same as `forward` returns."""

    def health(self) -> dict[str, Tensor]:
        """Return scalars for the training log, such as how many codes are in use."""
        return {}
