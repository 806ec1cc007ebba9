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
    often as the mean is replaced by a vector of the batch. Every forward pass moves the averages, so with gradient
    accumulation an optimizer step does so several times.
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
        if self.training:
            replace_dead(self._codebook, self.vectors(z))
        h = z.shape[1]
        quantized = rearrange(quantized, "b (h w) d -> b h w d", h=h)
        return quantized, rearrange(codes, "b (h w) -> b h w", h=h), {"commitment": commitment}

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) -> (B, h, w, D)."""
        return self.get_output_from_indices(codes)

    def health(self) -> dict[str, Tensor]:
        """Share of the codes in use, and their perplexity, over about the last hundred forward passes in training."""
        return use_of_codes(self._codebook.cluster_size)


@torch.no_grad()
def replace_dead(codebook: Any, vectors: Tensor) -> None:
    """Replace the dead codes of the library's `codebook` by some of the `vectors` (..., C) that it has just quantized.

    The library would compare the use of a code with a constant. Where a step has few vectors for many codes, even codes
    of mean use are below it, and they would be replaced again and again.
    """
    least = least_use(codebook.cluster_size)
    dead = codebook.cluster_size < least
    if dead.any():
        codebook.reset_cluster_size = least  # a new code must prove itself at once, and does not count as used before
        codebook.replace(vectors.reshape(1, -1, vectors.shape[-1]), dead)


def least_use(cluster_size: Tensor) -> Tensor:
    """A tenth of the mean use of a code, a scalar. Codes that are used less are dead.

    `cluster_size` is the library's moving average of the number of vectors of a code, over all processes.
    """
    return 0.1 * cluster_size.mean()


def use_of_codes(cluster_size: Tensor) -> dict[str, Tensor]:
    """The `cluster_size` of the library's codebook -> `usage`, the share of the codes in use, and their `perplexity`,
    over about the last hundred forward passes in training."""
    counts = cluster_size.flatten()
    p = counts / counts.sum().clamp_min(1e-10)
    usage = (counts > least_use(counts)).float().mean()
    return {"usage": usage, "perplexity": torch.exp(torch.special.entr(p).sum())}
