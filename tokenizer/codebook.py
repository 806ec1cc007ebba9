"""Quantizers with a codebook of vectors, from `vector-quantize-pytorch`."""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from vector_quantize_pytorch import VectorQuantize

from tokenizer.parts import Quantizer


class Codebook(VectorQuantize, Quantizer):  # type: ignore[misc]
    """Base class of quantizers whose codes are vectors.

    In training, codes are a moving average of the vectors assigned to them. A code that is used less than a tenth as
    often as the mean is replaced by a vector of the batch.
    """

    latents_tensors = ("project_in.",)
    codes_tensors = ("project_in.", "_codebook.embed.")
    pixels_tensors = ("project_out.", "_codebook.embed.")

    # attributes of VectorQuantize, which has no types
    project_in: Any
    project_out: Any
    codebook: Any
    _codebook: Any
    get_output_from_indices: Any

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(B, h, w, D) -> quantized, codes, and the commitment loss: the mean squared distance of z from its codes."""
        quantized, codes, commitment = VectorQuantize.forward(self, rearrange(z, "b h w d -> b (h w) d"))
        h = z.shape[1]
        quantized = rearrange(quantized, "b (h w) d -> b h w d", h=h)
        return quantized, rearrange(codes, "b (h w) -> b h w", h=h), {"commitment": commitment}

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) -> (B, h, w, D)."""
        return self.get_output_from_indices(codes)

    def health(self) -> dict[str, Tensor]:
        """Share of the codes in use, and their perplexity, over about the last hundred training steps."""
        return use_of_codes(self._codebook.cluster_size)


def use_of_codes(cluster_size: Tensor) -> dict[str, Tensor]:
    """The `cluster_size` of the library's codebook -> `usage`, the share of the codes in use, and their `perplexity`,
    over about the last hundred training steps."""
    counts = cluster_size.flatten()
    p = counts / counts.sum().clamp_min(1e-10)
    return {"usage": (counts > 0.1).float().mean(), "perplexity": torch.exp(torch.special.entr(p).sum())}
