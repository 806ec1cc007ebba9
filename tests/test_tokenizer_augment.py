"""Augmentation: it depends only on the generator, stays within its limits, and never mirrors."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tokenizer.augment import augment

PICTURES = torch.randint(0, 256, (64, 3, 16, 20), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_it_depends_only_on_the_generator() -> None:
    torch.manual_seed(1)
    once = augment(PICTURES, generator())
    torch.manual_seed(2)
    assert torch.equal(augment(PICTURES, generator()), once)
    assert not torch.equal(augment(PICTURES, generator(1)), once)
    assert (once.dtype, once.shape) == (torch.uint8, PICTURES.shape)


def test_it_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    augment(PICTURES, generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_each_picture_of_a_batch_moves_differently() -> None:
    moved = augment(PICTURES[:1].expand(8, -1, -1, -1), generator())
    assert len({picture.numpy().tobytes() for picture in moved}) == 8


def test_no_shift_and_no_zoom_is_the_picture_itself() -> None:
    assert torch.equal(augment(PICTURES, generator(), shift=0, zoom=0), PICTURES)


def centre(picture: Tensor) -> tuple[float, float]:
    """(Row, column) of the centre of the bright part."""
    weight = picture.float().sum(0)
    rows, columns = (torch.arange(n, dtype=torch.float) for n in weight.shape)
    return float((weight.sum(1) * rows).sum() / weight.sum()), float((weight.sum(0) * columns).sum() / weight.sum())


def test_it_never_mirrors_and_shifts_within_the_limit() -> None:
    """A bright corner stays in its corner, in many random shifts."""
    picture = torch.zeros(3, 40, 40, dtype=torch.uint8)
    picture[:, 6:14, 6:14] = 255
    moved = augment(picture.expand(300, -1, -1, -1), generator(), shift=0.1, zoom=0)
    centres = torch.tensor([centre(m) for m in moved])
    assert (centres - 9.5).abs().max() < 0.1 * 40 + 0.5
    assert (centres - 9.5).std(0).min() > 1  # but it does shift
    assert (centres[:, 0] - centres[:, 1]).abs().max() > 1  # rows and columns independently


@pytest.mark.parametrize("zoom", [0.1, 0.3])
def test_it_zooms_within_the_limit(zoom: float) -> None:
    picture = torch.zeros(3, 60, 60, dtype=torch.uint8)
    picture[:, 20:40, 20:40] = 255
    moved = augment(picture.expand(200, -1, -1, -1), generator(), shift=0, zoom=zoom)
    sides = (moved[:, 0].float() / 255).sum((1, 2)).sqrt() / 20
    assert 1 / (1 + zoom) - 0.03 < sides.min() < 1 - zoom / 3
    assert 1 + zoom / 3 < sides.max() < 1 / (1 - zoom) + 0.03


def test_edges_are_repeated() -> None:
    white = torch.full((20, 3, 16, 16), 255, dtype=torch.uint8)
    assert torch.equal(augment(white, generator(), shift=0.3, zoom=0.5), white)


def test_pictures_stay_recognisable() -> None:
    smooth = F.interpolate(torch.rand(8, 3, 4, 4, generator=generator()) * 255, size=64, mode="bilinear")
    moved = augment(smooth.to(torch.uint8), generator())
    upright, mirrored = ((moved.float() - other).abs().mean((1, 2, 3)) for other in (smooth, smooth.flip(3)))
    assert (upright < mirrored).all()
