"""Alignment of the encoder's vectors with features of a frozen network (VF loss, arXiv 2501.01423, section 3.2).

Latents that resemble features are easier to generate. A learned projection leads from vectors to features. It serves
only training and is not exported.

Dimension names: B batch, h and w codes, D width, N = h * w, C channels of features.
"""

from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizer.features import FeatureNetwork
from training.precision import uses_bf16

STRIDES = {4: 24, 8: 40, 16: 112, 32: 320}
"""Channels of the network's feature map at each stride."""
COSINE_MARGIN = 0.5
"""Cosine distance that costs nothing, m1 in the paper."""
DISTANCE_MARGIN = 0.25
"""Difference of two similarities that costs nothing, m2 in the paper."""


class FrozenFeatures(nn.Module):
    """Features of pictures, one vector for each code."""

    def __init__(self, grid: int, stride: int) -> None:
        super().__init__()
        self.size, self.network = grid * stride, FeatureNetwork()
        blocks = self.network.blocks
        halving = [i for i, block in enumerate(blocks) if cast(int, block.stride) > 1]  # the first makes stride 4
        self.network.blocks = blocks[: [*halving, len(blocks)][[*STRIDES].index(stride) + 1]]

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> (B, h, w, C) float32. Resizes pictures so that the map fits the grid."""
        images = F.interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=False)
        device = images.device.type
        with torch.autocast(device, torch.bfloat16, enabled=uses_bf16(device)):
            features = self.network.stages(images)[-1]
        return rearrange(features.float(), "b c h w -> b h w c")


def cosine_loss(projected: Tensor, features: Tensor) -> Tensor:
    """Cosine distance of projected vectors from features, (B, h, w, C) both, beyond the margin -> scalar."""
    return F.relu(1 - COSINE_MARGIN - F.cosine_similarity(projected, features, dim=-1)).mean()


def distance_loss(z: Tensor, features: Tensor) -> Tensor:
    """How much the similarity of two places differs between vectors and features, beyond the margin -> scalar.

    Vectors (B, h, w, D), features (B, h, w, C). The mean is over all pairs of places in a picture.
    """
    difference = (_similarities(z) - _similarities(features)).abs()
    return F.relu(difference - DISTANCE_MARGIN).mean()


def _similarities(vectors: Tensor) -> Tensor:
    """(B, h, w, D) -> cosine similarities of all pairs of places (B, N, N)."""
    unit = F.normalize(rearrange(vectors.float(), "b h w d -> b (h w) d"), dim=-1)
    return unit @ unit.mT
