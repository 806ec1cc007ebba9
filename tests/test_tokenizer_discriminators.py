"""Discriminators: what they take and return, and that they learn."""

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

from tokenizer.discriminators import (
    DiscriminatorConfig,
    FeaturesConfig,
    MinibatchDeviation,
    PatchConfig,
    StyleGANConfig,
)
from training.errors import BadInput

SMALL = {
    "patch": (PatchConfig(width=8, halvings=2), 36),
    "stylegan": (StyleGANConfig(width=4, max_width=8), 1),
    "features": (FeaturesConfig(width=8, size=32), 4),
}


@pytest.fixture(params=SMALL)
def small(request: pytest.FixtureRequest) -> Iterator[tuple[DiscriminatorConfig, int]]:
    torch.manual_seed(0)
    return SMALL[request.param]


def test_each_picture_has_its_logits(small: tuple[DiscriminatorConfig, int]) -> None:
    """They do not depend on pictures outside its group, and gradients reach the picture."""
    config, logits = small
    judge = config.build(32)
    images = torch.rand(8, 3, 32, 32).mul(2).sub(1).requires_grad_()
    judged = judge(images)
    assert judged.shape == (8, logits)
    torch.testing.assert_close(judge(images[:4]), judged[:4])
    judged[0].sum().backward()
    assert images.grad is not None
    assert images.grad[0].abs().sum() > 0


def test_it_learns_to_tell_two_colors_apart(small: tuple[DiscriminatorConfig, int]) -> None:
    judge = small[0].build(32)
    optimizer = torch.optim.Adam([p for p in judge.parameters() if p.requires_grad], 1e-2)
    bright = torch.full((2, 3, 32, 32), 0.5)
    for _ in range(15):
        (F.softplus(-judge(bright)).mean() + F.softplus(judge(-bright)).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert judge(bright).mean() > 1
    assert judge(-bright).mean() < -1


def test_a_patch_sees_70_pixels() -> None:
    """That is the PatchGAN of pix2pix: gradients of one logit reach a square of that size."""
    judge = PatchConfig(width=2).build(128)
    for module in judge.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = lambda x: x  # type: ignore[method-assign]  # it sees the whole picture
    images = torch.rand(1, 3, 128, 128, requires_grad=True)
    logits = judge(images)
    assert logits.shape == (1, 14**2)
    logits[0, 7 * 14 + 7].backward()
    assert images.grad is not None
    rows = images.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert rows[-1] - rows[0] + 1 == 70


def test_minibatch_deviation_by_hand() -> None:
    x = torch.tensor([0.0, 2.0, 5.0, 5.0, 1.0, 7.0]).view(6, 1, 1, 1).expand(6, 2, 3, 3)
    deviation = MinibatchDeviation(4)(x)[:, 2, 0, 0]  # 6 pictures form groups of 2
    torch.testing.assert_close(deviation, torch.tensor([1.0, 1.0, 1e-4, 1e-4, 3.0, 3.0]))


def test_the_feature_network_is_not_trained() -> None:
    judge = FeaturesConfig(width=8, size=32).build(16)
    assert {name.split(".")[0] for name, p in judge.named_parameters() if p.requires_grad} == {"heads"}


@pytest.mark.parametrize(
    ("config", "size", "said"),
    [
        (PatchConfig(), 16, "PatchConfig.halvings is 3: must be less, for pictures of 16 pixels"),
        (StyleGANConfig(), 4, "cannot halve pictures of 4 pixels"),
        (StyleGANConfig(), 36, "cannot halve pictures of 36 pixels down to 4 to 7: give a model.image_size"),
    ],
)
def test_pictures_that_are_too_small_or_odd(config: DiscriminatorConfig, size: int, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        config.build(size)


def test_a_size_that_the_network_cannot_take() -> None:
    with pytest.raises(BadInput, match=r"FeaturesConfig\.size is 100: must be a multiple of 32"):
        FeaturesConfig(size=100)
