"""Quantizers. `tokenizer.parts` has their interface."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from vector_quantize_pytorch import VectorQuantize

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

    def build(self, width: int) -> "CosineVQ":
        """Build the module for vectors of this width."""
        return CosineVQ(width, self)


class CosineVQ(VectorQuantize, Quantizer):  # type: ignore[misc]
    """Chooses the code with the largest cosine similarity.

    In training, codes are a moving average of the vectors assigned to them. A code that is used less than a tenth as
    often as the mean is replaced by a vector of the batch.
    """

    codes_tensors = ("project_in.", "_codebook.embed.")
    pixels_tensors = ("project_out.", "_codebook.embed.")

    # attributes of VectorQuantize, which has no types
    project_in: Any
    codebook: Any
    _codebook: Any
    get_output_from_indices: Any

    def __init__(self, width: int, config: CosineVQConfig) -> None:
        super().__init__(
            width,
            config.size,
            codebook_dim=config.dim,
            use_cosine_sim=True,
            decay=0.99,
            threshold_ema_dead_code=0.1,
            commitment_weight=1.0,
        )

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(B, h, w, D) -> quantized, codes, and the commitment loss: the mean squared distance of z from its codes."""
        quantized, codes, commitment = VectorQuantize.forward(self, rearrange(z, "b h w d -> b (h w) d"))
        h = z.shape[1]
        quantized = rearrange(quantized, "b (h w) d -> b h w d", h=h)
        return quantized, rearrange(codes, "b (h w) -> b h w", h=h), {"commitment": commitment}

    def vectors(self, z: Tensor) -> Tensor:
        """(B, h, w, D) -> unit vectors (B, h, w, C)."""
        return F.normalize(self.project_in(z), dim=-1)

    def nearest(self, vectors: Tensor) -> Tensor:
        """(B, h, w, C) -> codes (B, h, w) with the largest inner product."""
        return (vectors @ self.codebook.T).argmax(-1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) -> (B, h, w, D)."""
        return self.get_output_from_indices(codes)

    def health(self) -> dict[str, Tensor]:
        """Share of the codes in use, and their perplexity, over about the last hundred training steps."""
        counts = self._codebook.cluster_size.flatten()
        p = counts / counts.sum().clamp_min(1e-10)
        return {"usage": (counts > 0.1).float().mean(), "perplexity": torch.exp(torch.special.entr(p).sum())}
