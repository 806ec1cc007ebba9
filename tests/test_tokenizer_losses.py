"""The losses of the image tokenizer, and PSNR."""

import pytest
import torch
from torch.nn import functional as F

from tokenizer.image_tokenizer import Reconstruction
from tokenizer.losses import PerceptualLoss, ReconstructionConfig, TokenizerLoss, psnr
from tokenizer.quantizers import CosineVQConfig
from training.errors import BadInput


@pytest.fixture(scope="module")
def perceptual() -> PerceptualLoss:
    return PerceptualLoss(64)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Smooth pictures."""
    coarse = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return F.interpolate(coarse, size=32, mode="bicubic").clamp(-1, 1)


def test_perceptual_loss_is_zero_for_equal_pictures_and_grows_with_noise(
    perceptual: PerceptualLoss, images: torch.Tensor
) -> None:
    assert perceptual(images, images) == 0
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    distances = [perceptual(images + amount * noise, images).item() for amount in (0.02, 0.08, 0.3, 1.0)]
    assert distances == sorted(distances)
    assert distances[0] > 0
    assert distances[-1] > 4 * distances[0]


def test_perceptual_loss_has_gradients_only_for_the_reconstruction(
    perceptual: PerceptualLoss, images: torch.Tensor
) -> None:
    made, target = (images + 0.1).requires_grad_(), images.clone().requires_grad_()
    perceptual(made, target).backward()
    assert made.grad is not None
    assert made.grad.abs().sum() > 0
    assert target.grad is None
    assert not list(filter(lambda p: p.requires_grad, perceptual.parameters()))


def test_the_total_is_the_weighted_sum(images: torch.Tensor) -> None:
    config = ReconstructionConfig(l1=2, l2=3, perceptual=0.5, perceptual_size=32)
    codes, z = torch.zeros(2, 4, 4, dtype=torch.int64), torch.zeros(2, 4, 4, 8)
    made = Reconstruction(images + 0.5, codes, {"commitment": torch.tensor(0.25)}, z)
    total, terms = TokenizerLoss(config, CosineVQConfig(commitment=7))(made, images)
    assert terms.keys() == {"l1", "l2", "perceptual", "commitment"}
    assert terms["l1"].item() == pytest.approx(0.5)
    assert terms["l2"].item() == pytest.approx(0.25)
    expected = 2 * 0.5 + 3 * 0.25 + 0.5 * terms["perceptual"].item() + 7 * 0.25
    assert total.item() == pytest.approx(expected, rel=1e-5)


def test_weight_0_builds_no_network() -> None:
    assert TokenizerLoss(ReconstructionConfig(perceptual=0), CosineVQConfig()).perceptual is None


@pytest.mark.parametrize("size", [0, -32, 48])
def test_sizes_that_the_network_cannot_take(size: int) -> None:
    with pytest.raises(BadInput, match=f"perceptual_size is {size}: must be a multiple of 32"):
        ReconstructionConfig(perceptual_size=size)


def test_psnr() -> None:
    images = torch.zeros(1, 3, 4, 4)
    assert psnr(images + 0.2, images).item() == pytest.approx(20)  # 20 log10(2 / 0.2)
    assert psnr(images + 5, images).item() == pytest.approx(20 * torch.log10(torch.tensor(2.0)).item())  # clamped
    assert psnr(images, images).isfinite()
