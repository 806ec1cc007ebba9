"""The quantizer without a codebook whose codes are signs."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizer.entropy import bit_entropies
from tokenizer.quantizers import LFQConfig
from tokenizer.usage import CountingQuantizer


class LFQ(CountingQuantizer):
    """Each bit of a code is the sign of one dimension.

    Computes the same as `vector_quantize_pytorch.LFQ`, which needs memory for a probability of every code for every
    vector, and with several processes divides the mean by their number without summing it over them.
    """

    latents_tensors = ("project_in.",)
    codes_tensors = ("project_in.",)
    pixels_tensors = ("project_out.",)

    powers: Tensor

    def __init__(self, width: int, config: LFQConfig) -> None:
        super().__init__()
        self.temperature = config.temperature
        self.project_in, self.project_out = nn.Linear(width, config.bits), nn.Linear(config.bits, width)
        self.register_buffer("powers", 2 ** torch.arange(config.bits), persistent=False)
        self.init_counts(config.size)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(B, h, w, D) -> quantized, with straight-through gradients; codes; `entropy`, `diversity`, `commitment`."""
        vectors = self.vectors(z)
        codes = self.nearest(vectors)
        signs = self._signs(codes)
        self.count(codes)
        # of two codes that differ in one bit, -1 or 1, the squared distances differ by 4 times that dimension
        losses = bit_entropies(vectors.flatten(0, -2) * (4 / self.temperature))
        losses["commitment"] = F.mse_loss(vectors, signs)
        return self.project_out(vectors + (signs - vectors).detach()), codes, losses

    def vectors(self, z: Tensor) -> Tensor:
        """(B, h, w, D) -> (B, h, w, C), a dimension for each bit."""
        return self.project_in(z)

    def nearest(self, vectors: Tensor) -> Tensor:
        """(B, h, w, C) -> codes (B, h, w)."""
        return ((vectors > 0) * self.powers).sum(-1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) -> (B, h, w, D)."""
        return self.project_out(self._signs(codes))

    def _signs(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) -> -1 or 1, (B, h, w, C)."""
        return (codes[..., None] & self.powers).ne(0) * 2.0 - 1
