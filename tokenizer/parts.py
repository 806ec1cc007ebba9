"""Interfaces of the parts of an image tokenizer: the backbone (encoder and decoder), and the bottleneck between.

A bottleneck turns the encoder's output into few dimensions. Most are quantizers, which have codes.

A place of the encoder's output has one code, or as many as the quantizer's depth. Then a row of codes has all of its
first place, from coarse to fine, then those of the next.

Dimension names: B batch, H and W pixels, h and w places (H / factor), n codes in a row (w * depth), D width,
C dimensions of a latent.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from training.parts import Registry, Tagged

BACKBONES: Registry[type["BackboneConfig"]] = Registry("backbone")
QUANTIZERS: Registry[type["BottleneckConfig"]] = Registry("quantizer")


class PartConfig(Tagged, ABC):
    """Config of a part. It groups options by what they affect, so that ids can ignore the rest."""

    codes_only: ClassVar[frozenset[str]] = frozenset()
    """Options that affect only how codes or latents are made, and not how they are decoded to pixels."""
    pixels_only: ClassVar[frozenset[str]] = frozenset()
    """Options that affect only how codes or latents are decoded to pixels."""
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
        """Height and width in pixels of a place."""

    @abstractmethod
    def encoder(self, image_size: int) -> nn.Module:
        """Build a module: images (B, 3, H, W) float in [-1, 1] -> (B, h, w, D)."""

    @abstractmethod
    def decoder(self, image_size: int) -> nn.Module:
        """Build a module: (B, h, w, D), h at most w -> images (B, 3, H, W) about [-1, 1]."""


@dataclass(kw_only=True)
class BottleneckConfig(PartConfig):
    """Config of a bottleneck. `dim` is an option or a property, and so is the weight of each loss, by its name."""

    registry: ClassVar = QUANTIZERS

    @property
    @abstractmethod
    def dim(self) -> int:
        """Dimensions of a latent, C. A quantizer compares these with codes."""

    @abstractmethod
    def build(self, width: int) -> "Bottleneck":
        """Build the module for vectors of this width, D.

        It must also work under `torch.device("meta")`, where tensors have no values and no memory, because configs
        from files are built there first. Build a submodule that reads its own values under `torch.device("cpu")`.
        """


@dataclass(kw_only=True)
class QuantizerConfig(BottleneckConfig):
    """Config of a quantizer. `size` is an option or a property too; so is `depth`, where it is not 1."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of codes, at each depth."""

    @property
    def depth(self) -> int:
        """Number of codes of a place."""
        return 1

    @abstractmethod
    def build(self, width: int) -> "Quantizer":
        """As `BottleneckConfig`."""


class Bottleneck(nn.Module, ABC):
    """Maps the encoder's output to latents, and latents to what the decoder takes.

    It is called with float32 and without autocast, which changed codes.
    """

    latents_tensors: ClassVar[tuple[str, ...]] = ("",)
    """Prefixes of the names of the tensors that affect `vectors`; by default all tensors."""
    pixels_tensors: ClassVar[tuple[str, ...]] = ("",)
    """Prefixes of the names of the tensors that affect how latents or codes are decoded; by default all tensors."""

    @abstractmethod
    def forward(self, z: Tensor) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """(B, h, w, D) -> (B, h, w, D) for the decoder, with gradients for z; codes, if there are any; losses by
        name."""

    @abstractmethod
    def vectors(self, z: Tensor) -> Tensor:
        """(B, h, w, D) -> latents before standardisation, (B, h, w, C)."""

    @abstractmethod
    def decoded(self, vectors: Tensor) -> Tensor:
        """Vectors as from `vectors`, or near them, (B, h, w, C) -> (B, h, w, D) for the decoder."""

    def health(self) -> dict[str, Tensor]:
        """Return scalars for the training log, such as how many codes are in use."""
        return {}


class Quantizer(Bottleneck):
    """Maps vectors to codes, and back."""

    codes_tensors: ClassVar[tuple[str, ...]] = ("",)
    """Prefixes of the names of the tensors that affect which codes are chosen; by default all tensors."""

    @abstractmethod
    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(B, h, w, D) -> quantized (B, h, w, D), with gradients for z; codes (B, h, n) int64; losses by name."""

    @abstractmethod
    def vectors(self, z: Tensor) -> Tensor:
        """(B, h, w, D) -> the vectors that are compared with codes, (B, h, w, C)."""

    @abstractmethod
    def nearest(self, vectors: Tensor) -> Tensor:
        """Vectors from `vectors`, (B, h, w, C) -> codes (B, h, n) int64, the same as `forward` returns."""

    @abstractmethod
    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, h, n) int64 -> quantized (B, h, w, D), the same as `forward` returns."""

    def decoded(self, vectors: Tensor) -> Tensor:
        """As `Bottleneck`, through the nearest codes."""
        return self.lookup(self.nearest(vectors))
