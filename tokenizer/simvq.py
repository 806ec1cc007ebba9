"""The quantizer whose codebook is a linear map of fixed random vectors."""

from typing import Any

import torch
import vector_quantize_pytorch
from torch import Tensor, nn

from tokenizer.quantizers import SimVQConfig
from tokenizer.usage import CountingQuantizer


class SimVQ(vector_quantize_pytorch.SimVQ, CountingQuantizer):  # type: ignore[misc]
    """Trains the map alone. Every step moves all codes together, so that none is left behind unused."""

    latents_tensors = ("project_in.",)
    codes_tensors = ("project_in.", "code_transform.", "frozen_codebook.")
    pixels_tensors = ("project_out.", "code_transform.", "frozen_codebook.")

    # attributes of the library's class, which has no types
    codebook: Any
    code_transform: Any
    frozen_codebook: Any

    def __init__(self, width: int, config: SimVQConfig) -> None:
        super().__init__(
            config.dim,
            config.size,
            rotation_trick=config.rotation,
            input_to_quantize_commit_loss_weight=config.commitment,
        )
        self.project_in, self.project_out = nn.Linear(width, config.dim), nn.Linear(config.dim, width)
        self.init_counts(config.size)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(B, h, w, D) -> quantized, codes, and the loss `codebook`: the distance of vectors from their codes."""
        quantized, codes, loss = vector_quantize_pytorch.SimVQ.forward(self, self.vectors(z))
        self.count(codes)
        return self.project_out(quantized), codes, {"codebook": loss}

    def vectors(self, z: Tensor) -> Tensor:
        """(B, h, w, D) -> (B, h, w, C)."""
        return self.project_in(z)

    def nearest(self, vectors: Tensor) -> Tensor:
        """(B, h, w, C) -> codes (B, h, w) with the smallest Euclidean distance."""
        return torch.cdist(vectors.flatten(1, 2), self.codebook).argmin(-1).view(vectors.shape[:-1])

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) -> (B, h, w, D)."""
        return self.project_out(self.code_transform(self.frozen_codebook[codes]))
