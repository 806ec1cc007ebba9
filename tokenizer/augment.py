"""Augmentation that changes neither what a picture shows nor its caption: small shifts and zooms, never a mirror."""

import torch
from torch import Tensor
from torch.nn import functional as F


def augmented(images: Tensor, generator: torch.Generator, *, shift: float = 0.06, zoom: float = 0.1) -> Tensor:
    """Shifts each picture by up to `shift` of its size and zooms it by up to `zoom`, edges repeated.

    Takes and returns uint8 (B, 3, H, W); the generator is the only randomness.
    """
    count = len(images)
    scale = 1 + zoom * (2 * torch.rand(count, generator=generator) - 1)
    offset = 2 * shift * (2 * torch.rand(count, 2, generator=generator) - 1)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = offset
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images.float(), grid, mode="bicubic", padding_mode="border", align_corners=False)
    return moved.round().clamp(0, 255).to(torch.uint8)
