"""The options of each quantizer. `tokenizer.parts` has the interface of quantizers."""

import math
from dataclasses import dataclass
from typing import ClassVar

from tokenizer.parts import QUANTIZERS, Quantizer, QuantizerConfig
from training.config import MAX_WIDTH, require, require_sizes

MAX_SIZE = 2**24
"""Most codes of a quantizer."""
MAX_RESIDUAL_DEPTH = 16
"""Most codes of a place."""


@QUANTIZERS.register("cosine-vq")
@dataclass(kw_only=True)
class CosineVQConfig(QuantizerConfig):
    """A codebook of low-dimensional vectors on the unit sphere (ViT-VQGAN, arXiv 2110.04627, section 3.2)."""

    training_only: ClassVar = frozenset({"commitment", "rotation"})

    size: int = 2048
    """Number of codes."""
    dim: int = 16
    """Dimensions in which vectors are compared with codes."""
    commitment: float = 0.5
    """Weight of the commitment loss, which pulls the encoder's output towards its code."""
    rotation: bool = True
    """Rotate and scale gradients as vectors are to become codes (arXiv 2410.06424). Otherwise copy them unchanged."""

    def __post_init__(self) -> None:
        _require_codebook(self)
        _require_weights(self, "commitment")

    def build(self, width: int) -> Quantizer:
        """Build the module for vectors of this width."""
        from tokenizer.cosine_vq import CosineVQ  # whose library takes longer to import than all else here

        return CosineVQ(width, self)


@QUANTIZERS.register("fsq")
@dataclass(kw_only=True)
class FSQConfig(QuantizerConfig):
    """Finite scalar quantization: each dimension is rounded to one of a few levels (arXiv 2309.15505)."""

    levels: tuple[int, ...] = (8, 8, 8, 4)
    """Number of levels of each dimension. The number of codes is their product."""

    def __post_init__(self) -> None:
        fits = self.levels and min(self.levels) >= 3 and math.prod(self.levels) <= MAX_SIZE
        require(self, "levels", bool(fits), f"numbers from 3, whose product is at most {MAX_SIZE}")

    @property
    def size(self) -> int:
        """Number of codes."""
        return math.prod(self.levels)

    @property
    def dim(self) -> int:
        """Dimensions that are rounded."""
        return len(self.levels)

    def build(self, width: int) -> Quantizer:
        """Build the module for vectors of this width."""
        from tokenizer.fsq import FSQ

        return FSQ(width, self)


@QUANTIZERS.register("lfq")
@dataclass(kw_only=True)
class LFQConfig(QuantizerConfig):
    """Lookup-free quantization: each bit of a code is the sign of a dimension (MAGVIT-v2, arXiv 2310.05737)."""

    training_only: ClassVar = frozenset({"entropy", "diversity", "commitment", "temperature"})

    bits: int = 11
    """Bits of a code. The number of codes is 2 to this power."""
    entropy: float = 0.1
    """Weight of the entropy of the code of each vector. It makes vectors choose codes confidently."""
    diversity: float = 0.1
    """Weight of minus the entropy of the mean distribution of codes. It makes all codes be used."""
    commitment: float = 0.25
    """Weight of the mean squared distance of vectors from their codes."""
    temperature: float = 0.01
    """Temperature of the distributions of the two entropies. Lower is sharper."""

    def __post_init__(self) -> None:
        require(self, "bits", 1 <= self.bits <= 24, "from 1 to 24")
        _require_weights(self, "entropy", "diversity", "commitment")
        require(self, "temperature", self.temperature > 0, "above 0")

    @property
    def size(self) -> int:
        """Number of codes."""
        return 2**self.bits

    @property
    def dim(self) -> int:
        """Dimensions whose signs are taken."""
        return self.bits

    def build(self, width: int) -> Quantizer:
        """Build the module for vectors of this width."""
        from tokenizer.lfq import LFQ

        return LFQ(width, self)


@QUANTIZERS.register("simvq")
@dataclass(kw_only=True)
class SimVQConfig(QuantizerConfig):
    """A codebook that is a trained linear map of fixed random vectors, so that all codes train (arXiv 2411.02038)."""

    training_only: ClassVar = frozenset({"codebook", "commitment", "rotation"})

    size: int = 2048
    """Number of codes."""
    dim: int = 32
    """Dimensions in which vectors are compared with codes."""
    codebook: float = 1.0
    """Weight of the mean squared distance of codes from vectors."""
    commitment: float = 0.25
    """Share of that distance that pulls vectors towards codes, beside all of it that pulls codes towards vectors."""
    rotation: bool = True
    """Rotate and scale gradients as vectors are to become codes (arXiv 2410.06424). Otherwise copy them unchanged."""

    def __post_init__(self) -> None:
        _require_codebook(self)
        _require_weights(self, "codebook", "commitment")

    def build(self, width: int) -> Quantizer:
        """Build the module for vectors of this width."""
        from tokenizer.simvq import SimVQ

        return SimVQ(width, self)


@QUANTIZERS.register("ibq")
@dataclass(kw_only=True)
class IBQConfig(QuantizerConfig):
    """Index backpropagation: gradients reach all codes through the choice of one (arXiv 2412.02692).

    In training it keeps a few numbers for every code for every vector in memory.
    """

    training_only: ClassVar = frozenset({"double", "commitment", "codebook", "entropy", "diversity", "temperature"})

    size: int = 2048
    """Number of codes."""
    dim: int = 32
    """Dimensions in which vectors are compared with codes."""
    double: float = 1.0
    """Weight of the mean squared distance of vectors from their codes, with gradients through the choice of codes."""
    commitment: float = 1.0
    """Weight of the same distance, with gradients only to vectors."""
    codebook: float = 0.25
    """Weight of the same distance, with gradients only to the chosen codes."""
    entropy: float = 0.05
    """Weight of the entropy of the code of each vector. It makes vectors choose codes confidently."""
    diversity: float = 0.05
    """Weight of minus the entropy of the mean distribution of codes. It makes all codes be used."""
    temperature: float = 0.01
    """Temperature of the distributions of the two entropies. Lower is sharper."""

    def __post_init__(self) -> None:
        _require_codebook(self)
        _require_weights(self, "double", "commitment", "codebook", "entropy", "diversity")
        require(self, "temperature", self.temperature > 0, "above 0")

    def build(self, width: int) -> Quantizer:
        """Build the module for vectors of this width."""
        from tokenizer.ibq import IBQ

        return IBQ(width, self)


@QUANTIZERS.register("vq")
@dataclass(kw_only=True)
class VQConfig(QuantizerConfig):
    """A codebook of vectors that are compared by their Euclidean distance (VQGAN, arXiv 2012.09841)."""

    training_only: ClassVar = frozenset({"commitment", "rotation"})

    size: int = 1024
    """Number of codes."""
    dim: int = 256
    """Dimensions in which vectors are compared with codes."""
    commitment: float = 0.25
    """Weight of the commitment loss, which pulls the encoder's output towards its code."""
    rotation: bool = True
    """Rotate and scale gradients as vectors are to become codes (arXiv 2410.06424). Otherwise copy them unchanged."""

    def __post_init__(self) -> None:
        _require_codebook(self)
        _require_weights(self, "commitment")

    def build(self, width: int) -> Quantizer:
        """Build the module for vectors of this width."""
        from tokenizer.vq import VQ

        return VQ(width, self)


@QUANTIZERS.register("residual-vq")
@dataclass(kw_only=True)
class ResidualVQConfig(QuantizerConfig):
    """Several codes of a place, each for what the codes before it leave (RQ-VAE, arXiv 2203.01941, section 3.1)."""

    training_only: ClassVar = frozenset({"commitment", "rotation"})

    size: int = 2048
    """Number of codes at each depth."""
    depth: int = 2
    """Number of codes of a place. The token model draws as many tokens for each place."""
    dim: int = 16
    """Dimensions in which vectors are compared with codes."""
    commitment: float = 0.25
    """Weight of the commitment loss, which pulls the encoder's output towards the sum of its codes."""
    rotation: bool = False
    """Rotate and scale gradients as vectors are to become that sum (arXiv 2410.06424). Otherwise copy them unchanged,
    as RQ-VAE does; on a few small pictures that was 2 to 3 dB better."""

    def __post_init__(self) -> None:
        _require_codebook(self)
        require_sizes(self, depth=MAX_RESIDUAL_DEPTH)
        _require_weights(self, "commitment")

    def build(self, width: int) -> Quantizer:
        """Build the module for vectors of this width."""
        from tokenizer.residual_vq import ResidualVQ

        return ResidualVQ(width, self)


def _require_codebook(config: QuantizerConfig) -> None:
    require(config, "size", 2 <= config.size <= MAX_SIZE, f"from 2 to {MAX_SIZE}")
    require_sizes(config, dim=MAX_WIDTH)


def _require_weights(config: QuantizerConfig, *names: str) -> None:
    for name in names:
        require(config, name, getattr(config, name) >= 0, "0 or more")
