"""The quantizer with several codes of a place, each for what the codes before it leave (arXiv 2203.01941).

Dimension names: B batch, h and w places, N codes of a place, n codes in a row (w * N), D width, C dimensions of a
latent.
"""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize
from vector_quantize_pytorch.vector_quantize_pytorch import cdist, rotate_to, straight_through

from tokenizer.codebook import replace_dead, use_of_codes
from tokenizer.parts import Quantizer
from tokenizer.quantizers import MAX_RESIDUAL_DEPTH, ResidualVQConfig


class ResidualVQ(Quantizer):
    """Chooses the nearest code, then the one nearest to the rest, and so on. Each depth has a codebook of its own.

    `vector_quantize_pytorch.ResidualVQ` passes the gradient once for every depth, so that it grows with the depth; and
    the rounding of its gradient trick reaches the rest. Here, the gradient passes once, for the sum of the codes.
    """

    latents_tensors = ("project_in.",)
    codes_tensors = ("project_in.", *(f"layers.{n}._codebook.embed." for n in range(MAX_RESIDUAL_DEPTH)))
    pixels_tensors = ("project_out.", *(f"layers.{n}._codebook.embed." for n in range(MAX_RESIDUAL_DEPTH)))

    def __init__(self, width: int, config: ResidualVQConfig) -> None:
        super().__init__()
        self.passed = rotate_to if config.rotation else straight_through
        self.project_in, self.project_out = nn.Linear(width, config.dim), nn.Linear(config.dim, width)
        self.layers: Sequence[Any] = nn.ModuleList(  # type: ignore[assignment] # the library has no types
            VectorQuantize(config.dim, config.size, decay=0.99) for _ in range(config.depth)
        )

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(B, h, w, D) -> quantized, codes, and the loss `commitment`: the mean square of what is left after a code."""
        vectors = self.vectors(z)
        rest = rearrange(vectors, "b h w c -> b (h w) c")
        quantized, codes, left = torch.zeros_like(rest), [], []
        for layer in self.layers:  # algorithm 1 of arXiv 2107.03312
            code_vectors, chosen, _ = layer(rest.detach())
            if self.training:
                replace_dead(layer._codebook, rest)
            quantized, rest = quantized + code_vectors, rest - code_vectors
            codes.append(chosen)
            left.append(rest.square().mean())  # eq. 7
        quantized = quantized.view_as(vectors)
        if self.training:
            quantized = self.passed(vectors, quantized)
        in_rows = rearrange(torch.stack(codes), "n b (h w) -> b h (w n)", h=z.shape[1])
        return self.project_out(quantized), in_rows, {"commitment": torch.stack(left).mean()}

    def vectors(self, z: Tensor) -> Tensor:
        """(B, h, w, D) -> (B, h, w, C)."""
        return self.project_in(z)

    def nearest(self, vectors: Tensor) -> Tensor:
        """(B, h, w, C) -> codes (B, h, n) at the smallest distances, by the arithmetic of training."""
        rest, codes = rearrange(vectors, "b h w c -> 1 (b h w) c"), []
        for layer in self.layers:
            codes.append(cdist(rest, layer._codebook.embed).argmin(-1))
            rest = rest - layer.codebook[codes[-1]]
        b, h, w, _ = vectors.shape
        return rearrange(torch.cat(codes), "n (b h w) -> b h (w n)", b=b, h=h, w=w)

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, h, n) -> (B, h, w, D)."""
        chosen = rearrange(codes, "b h (w n) -> n b h w", n=len(self.layers))
        vectors = [layer.codebook[one] for layer, one in zip(self.layers, chosen, strict=True)]
        return self.project_out(torch.stack(vectors).sum(0))

    def health(self) -> dict[str, Tensor]:
        """The use of codes as `Codebook`: of the depth that uses the fewest; and of each depth, as `usage_1`."""
        by_depth = [use_of_codes(layer._codebook.cluster_size) for layer in self.layers]
        each = {f"{name}_{n}": value for n, one in enumerate(by_depth, 1) for name, value in one.items()}
        return {name: torch.stack([one[name] for one in by_depth]).min() for name in by_depth[0]} | each
