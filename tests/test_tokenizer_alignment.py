"""Alignment of vectors with features: closed forms, and the grid of the features."""

import math

import pytest
import torch
from torch.nn import functional as F

from tokenizer.alignment import STRIDES, FrozenFeatures, cosine_loss, distance_loss
from tokenizer.features import FeatureNetwork
from tokenizer.losses import ReconstructionConfig
from training.errors import BadInput


def at(*degrees: float) -> torch.Tensor:
    """Unit vectors in a plane at these angles: (1, 1, places, 2)."""
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], -1)[None, None]


def test_cosine_loss_by_hand() -> None:
    """Angles of 0, 60, 90 and 180 degrees: distances 0, 0.5, 1 and 2, of which 0.5 cost nothing."""
    loss = cosine_loss(3 * at(0, 60, 90, 180), at(0, 0, 0, 0))
    assert loss.item() == pytest.approx((0 + 0 + 0.5 + 1.5) / 4, abs=1e-6)


def test_distance_loss_by_hand() -> None:
    """Two places at 90 degrees, whose features are at 60: similarities 0 and 0.5. The diagonal costs nothing."""
    assert distance_loss(2 * at(0, 90), 5 * at(0, 60)).item() == pytest.approx(2 * 0.25 / 4, abs=1e-6)
    assert distance_loss(at(0, 90), at(45, 135)) == 0  # only angles between places count
    assert distance_loss(at(0, 10), at(0, 30)) == 0  # within the margin
    assert distance_loss(at(0, 0), at(0, 180)).item() == pytest.approx(2 * (2 - 0.25) / 4, abs=1e-6)


def test_vectors_learn_the_similarities_of_features() -> None:
    torch.manual_seed(0)
    z, features = torch.randn(2, 3, 3, 4, requires_grad=True), torch.randn(2, 3, 3, 6)
    before, optimizer = distance_loss(z, features).item(), torch.optim.Adam([z], 0.1)
    for _ in range(30):
        optimizer.zero_grad()
        distance_loss(z, features).backward()
        optimizer.step()
    assert distance_loss(z, features) < 0.3 * before
    assert math.isfinite(before)


@pytest.mark.parametrize("stride", STRIDES)
def test_a_feature_for_each_code(stride: int) -> None:
    """Whatever the size of pictures: the feature map at that stride of the resized ones."""
    pictures = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    grid = 128 // stride
    features = FrozenFeatures(grid, stride)(pictures)
    assert features.shape == (1, grid, grid, STRIDES[stride])
    maps = FeatureNetwork().stages(F.interpolate(pictures, size=(128, 128), mode="bilinear"))
    expected = maps[1 + [*STRIDES].index(stride)].permute(0, 2, 3, 1)
    assert F.cosine_similarity(features, expected, dim=-1).mean() > 0.95  # perhaps in bfloat16


def test_a_map_smaller_than_the_network_takes() -> None:
    """The whole network needs 32 pixels or more."""
    assert FrozenFeatures(3, 4)(torch.zeros(1, 3, 24, 24)).shape == (1, 3, 3, 24)


def test_a_stride_without_a_map() -> None:
    with pytest.raises(BadInput, match="alignment_stride is 12: must be 4, 8, 16 or 32"):
        ReconstructionConfig(alignment_stride=12)
