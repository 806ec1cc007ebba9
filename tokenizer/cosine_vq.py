"""The quantizer with a codebook on the unit sphere."""

from torch import Tensor
from torch.nn import functional as F

from tokenizer.codebook import Codebook
from tokenizer.quantizers import CosineVQConfig


class CosineVQ(Codebook):
    """Chooses the code with the largest cosine similarity."""

    def __init__(self, width: int, config: CosineVQConfig) -> None:
        super().__init__(
            width,
            config.size,
            codebook_dim=config.dim,
            use_cosine_sim=True,
            decay=0.99,
            commitment_weight=1.0,
            rotation_trick=config.rotation,
        )

    def vectors(self, z: Tensor) -> Tensor:
        """(B, h, w, D) -> unit vectors (B, h, w, C)."""
        return F.normalize(self.project_in(z), dim=-1)

    def nearest(self, vectors: Tensor) -> Tensor:
        """(B, h, w, C) -> codes (B, h, w) with the largest inner product."""
        return (vectors @ self.codebook.T).argmax(-1)
