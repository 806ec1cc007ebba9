"""The quantizer without a codebook that rounds each dimension."""

from typing import Any

import vector_quantize_pytorch
from torch import Tensor

from tokenizer.quantizers import FSQConfig
from tokenizer.usage import CountingQuantizer


class FSQ(vector_quantize_pytorch.FSQ, CountingQuantizer):  # type: ignore[misc]
    """Bounds each dimension by tanh and rounds it to one of its levels. It has no loss of its own."""

    latents_tensors = ("project_in.",)
    codes_tensors = ("project_in.",)
    pixels_tensors = ("project_out.",)

    # attributes of the library's class, which has no types
    project_in: Any
    project_out: Any
    quantize: Any
    codes_to_indices: Any
    _indices_to_codes: Any

    def __init__(self, width: int, config: FSQConfig) -> None:
        # without a table of all codes, which the library would compute
        super().__init__(config.levels, dim=width, return_indices=False)
        self.init_counts(config.size)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(B, h, w, D) -> quantized, with straight-through gradients, codes, and no losses."""
        rounded = self.quantize(self.vectors(z))
        codes = self.codes_to_indices(rounded).long()
        self.count(codes)
        return self.project_out(rounded), codes, {}

    def vectors(self, z: Tensor) -> Tensor:
        """(B, h, w, D) -> (B, h, w, C), not bounded yet."""
        return self.project_in(z)

    def nearest(self, vectors: Tensor) -> Tensor:
        """(B, h, w, C) -> codes (B, h, w)."""
        return self.codes_to_indices(self.quantize(vectors)).long()

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) -> (B, h, w, D)."""
        return self.project_out(self._indices_to_codes(codes))
