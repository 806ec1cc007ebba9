"""The quantizer of VQGAN: a codebook of vectors that are compared by their Euclidean distance."""

from einops import rearrange
from torch import Tensor, nn
from vector_quantize_pytorch.vector_quantize_pytorch import cdist

from tokenizer.codebook import Codebook
from tokenizer.quantizers import VQConfig


class VQ(Codebook):
    """Chooses the code at the smallest distance; of equally near ones, the first.

    There are linear maps before and after the codebook in any case, as in VQGAN: its `quant_conv`, `post_quant_conv`.
    """

    def __init__(self, width: int, config: VQConfig) -> None:
        super().__init__(
            width,
            config.size,
            codebook_dim=config.dim,
            decay=0.99,
            commitment_weight=1.0,
            rotation_trick=config.rotation,
        )
        if not self.has_projections:  # where D is C
            self.project_in, self.project_out = nn.Linear(width, width), nn.Linear(width, width)

    def vectors(self, z: Tensor) -> Tensor:
        """(B, h, w, D) -> (B, h, w, C)."""
        return self.project_in(z)

    def nearest(self, vectors: Tensor) -> Tensor:
        """(B, h, w, C) -> codes (B, h, w) at the smallest distance, by the arithmetic of training."""
        flat = rearrange(vectors, "b h w c -> 1 (b h w) c")
        return cdist(flat, self._codebook.embed).argmin(-1).view(vectors.shape[:-1])
