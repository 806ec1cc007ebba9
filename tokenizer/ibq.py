"""The quantizer whose gradients reach all codes through the choice of one (arXiv 2412.02692)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizer.entropy import code_entropies
from tokenizer.quantizers import IBQConfig
from tokenizer.usage import CountingQuantizer


class IBQ(CountingQuantizer):
    """Chooses the code with the largest inner product. The gradient of the choice is that of a softmax."""

    latents_tensors = ("project_in.",)
    codes_tensors = ("project_in.", "codebook.")
    pixels_tensors = ("project_out.", "codebook.")

    def __init__(self, width: int, config: IBQConfig) -> None:
        super().__init__()
        self.temperature = config.temperature
        self.project_in, self.project_out = nn.Linear(width, config.dim), nn.Linear(config.dim, width)
        # of one length: longer codes would win most inner products, and the others would fall out of use
        self.codebook = nn.Parameter(F.normalize(torch.randn(config.size, config.dim), dim=-1))
        self.init_counts(config.size)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(B, h, w, D) -> quantized, codes, and losses: `double`, `commitment`, `codebook`, `entropy`, `diversity`."""
        vectors = self.vectors(z)
        logits = vectors @ self.codebook.T  # (B, h, w, K)
        codes, soft = logits.argmax(-1), logits.softmax(-1)
        self.count(codes)
        hard = self.codebook[codes]
        quantized = hard + (soft - soft.detach()) @ self.codebook  # one-hot - sg(soft) + soft, times the codebook
        losses = {
            "double": F.mse_loss(quantized, vectors),
            "commitment": F.mse_loss(vectors, hard.detach()),
            "codebook": F.mse_loss(hard, vectors.detach()),
            **code_entropies(logits.flatten(0, -2) / self.temperature),
        }
        return self.project_out(quantized), codes, losses

    def vectors(self, z: Tensor) -> Tensor:
        """(B, h, w, D) -> (B, h, w, C)."""
        return self.project_in(z)

    def nearest(self, vectors: Tensor) -> Tensor:
        """(B, h, w, C) -> codes (B, h, w) with the largest inner product."""
        return (vectors @ self.codebook.T).argmax(-1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) -> (B, h, w, D)."""
        return self.project_out(self.codebook[codes])
