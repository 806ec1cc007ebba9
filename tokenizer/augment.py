"""Augmentation that changes neither what a picture shows nor its caption: small shifts and zooms, never a mirror."""

import torch
from torch import Tensor
from torch.nn import functional as F


def augment(images: Tensor, generator: torch.Generator, *, shift: float = 0.06, zoom: float = 0.1) -> Tensor:
    """Moves each picture by chance, as `random_moves` says.

    Takes and returns uint8 (B, 3, H, W); the generator is the only randomness.
    """
    return move(images, *random_moves(len(images), generator, shift=shift, zoom=zoom))


def random_moves(
    count: int, generator: torch.Generator, *, shift: float = 0.06, zoom: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Zooms (B,) by up to `zoom`, and shifts (B, 2) by up to `shift` of a picture's size, in halves of it."""
    scale = 1 + zoom * (2 * torch.rand(count, generator=generator) - 1)
    return scale, 2 * shift * (2 * torch.rand(count, 2, generator=generator) - 1)


def move(images: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Pictures, uint8 (B, 3, H, W), zoomed by `scale` (B,) and shifted by `offset` (B, 2), edges repeated."""
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = offset
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    found = F.grid_sample(images.float(), grid, mode="bicubic", padding_mode="border", align_corners=False)
    return found.round().clamp(0, 255).to(torch.uint8)
