"""Augments pictures by small shifts and zooms. It never mirrors, so that captions stay true."""

import torch
from torch import Tensor
from torch.nn import functional as F


def augment(images: Tensor, generator: torch.Generator, *, shift: float = 0.06, zoom: float = 0.1) -> Tensor:
    """Move each picture by a random zoom and shift: uint8 (B, 3, H, W) -> the same. Only `generator` is random."""
    return move(images, *random_moves(len(images), generator, shift=shift, zoom=zoom))


def random_moves(
    count: int, generator: torch.Generator, *, shift: float = 0.06, zoom: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Sample `count` zooms and shifts for `move`.

    Returns:
        scales (count,) from 1 - `zoom` to 1 + `zoom`, and offsets (count, 2) of up to `shift` times a picture's size,
        in units of half a picture.
    """
    scale = 1 + zoom * (2 * torch.rand(count, generator=generator) - 1)
    return scale, 2 * shift * (2 * torch.rand(count, 2, generator=generator) - 1)


def move(images: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Zoom pictures, uint8 (B, 3, H, W), by `scale` (B,) and shift them by `offset` (B, 2); edges are repeated."""
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = offset
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    sampled = F.grid_sample(images.float(), grid, mode="bicubic", padding_mode="border", align_corners=False)
    return sampled.round().clamp(0, 255).to(torch.uint8)
