"""What an image tokenizer is put together from: a backbone, and a quantizer in the middle of it.

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
    """Of either part: which of its options decide what, by which tokenizers are told apart."""

    codes_only: ClassVar[frozenset[str]] = frozenset()
    """Options that shape no pixel of given codes."""
    pixels_only: ClassVar[frozenset[str]] = frozenset()
    """Options that shape no code."""
    training_only: ClassVar[frozenset[str]] = frozenset()
    """Options that change how it learns and nothing that is made of its weights."""


@dataclass(kw_only=True)
class BackboneConfig(PartConfig):
    """The networks around the quantizer. `width` and `factor` are options or properties."""

    registry: ClassVar = BACKBONES

    @property
    @abstractmethod
    def width(self) -> int:
        """Dimensions of the vectors between encoder, quantizer and decoder."""

    @property
    @abstractmethod
    def factor(self) -> int:
        """Height and width in pixels that one code stands for."""

    @abstractmethod
    def encoder(self, image_size: int) -> nn.Module:
        """Makes a module: images (B, 3, H, W) float in [-1, 1] -> (B, h, w, D)."""

    @abstractmethod
    def decoder(self, image_size: int) -> nn.Module:
        """Makes a module: (B, h, w, D), h up to the trained one -> images (B, 3, H, W) about [-1, 1]."""


@dataclass(kw_only=True)
class QuantizerConfig(PartConfig):
    """How vectors become codes. `size` and `dim` are options or properties, and so is the weight of each of its losses,
    by the name of the loss.
    """

    registry: ClassVar = QUANTIZERS

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of codes."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Dimensions in which codes are compared."""

    @abstractmethod
    def build(self, width: int) -> "Quantizer":
        """Makes the module, for vectors of this width.

        Also under `torch.device("meta")`, where what a file claims costs no memory and tensors have no numbers; what
        looks at its own numbers while it is made, is made under `torch.device("cpu")`.
        """


class Quantizer(nn.Module, ABC):
    """Vectors -> codes, and back. It is called with float32 and outside autocast, which was seen to change codes."""

    codes_tensors: ClassVar[tuple[str, ...]] = ("",)
    """How the names of the tensors begin that decide the codes; by default all."""
    pixels_tensors: ClassVar[tuple[str, ...]] = ("",)
    """Likewise of those that decide what given codes become."""

    @abstractmethod
    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(B, h, w, D) -> quantized (B, h, w, D), with gradients for z; codes (B, h, w) int64; its losses, scalars."""

    @abstractmethod
    def vectors(self, z: Tensor) -> Tensor:
        """(B, h, w, D) -> what is compared with the codes, (B, h, w, C)."""

    @abstractmethod
    def nearest(self, vectors: Tensor) -> Tensor:
        """What is compared, (B, h, w, C) -> codes (B, h, w) int64, those of the forward pass."""

    @abstractmethod
    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) int64 -> quantized (B, h, w, D), as of the forward pass."""

    def health(self) -> dict[str, Tensor]:
        """Scalars for the log of a training, such as how many codes are in use."""
        return {}
