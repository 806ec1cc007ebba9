"""The options of each quantizer. `tokenizer.parts` has the interface of quantizers."""

from dataclasses import dataclass
from typing import ClassVar

from tokenizer.parts import QUANTIZERS, Quantizer, QuantizerConfig
from training.config import MAX_WIDTH, require, require_sizes


@QUANTIZERS.register("cosine-vq")
@dataclass(kw_only=True)
class CosineVQConfig(QuantizerConfig):
    """A codebook of low-dimensional vectors on the unit sphere (ViT-VQGAN, arXiv 2110.04627, section 3.2)."""

    training_only: ClassVar = frozenset({"commitment"})

    size: int = 2048
    """Number of codes."""
    dim: int = 16
    """Dimensions in which vectors are compared with codes."""
    commitment: float = 0.5
    """Weight of the commitment loss, which pulls the encoder's output towards its code."""

    def __post_init__(self) -> None:
        require(self, "size", 2 <= self.size <= 2**24, "from 2 to 16777216")
        require_sizes(self, dim=MAX_WIDTH)
        require(self, "commitment", self.commitment >= 0, "0 or more")

    def build(self, width: int) -> Quantizer:
        """Build the module for vectors of this width."""
        from tokenizer.cosine_vq import CosineVQ  # whose library takes longer to import than all else here

        return CosineVQ(width, self)
