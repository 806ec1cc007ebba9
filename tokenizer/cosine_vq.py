"""The quantizer with a codebook on the unit sphere."""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from vector_quantize_pytorch import VectorQuantize

from tokenizer.parts import Quantizer
from tokenizer.quantizers import CosineVQConfig


class CosineVQ(VectorQuantize, Quantizer):  # type: ignore[misc]
    """Chooses the code with the largest cosine similarity.

    In training, codes are a moving average of the vectors assigned to them. A code that is used less than a tenth as
    often as the mean is replaced by a vector of the batch.
    """

    latents_tensors = ("project_in.",)
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
            rotation_trick=config.rotation,
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
