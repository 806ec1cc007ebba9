"""The convolutional backbone. `test_tokenizer_convert.py` compares it with diffusers."""

from typing import Any

import pytest
import torch
from torch.nn import GroupNorm

from tokenizer.conv import ConvConfig
from tokenizer.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from tokenizer.quantizers import VQConfig
from training.config import from_dict
from training.errors import BadInput

IMAGES = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def tokenizer(**options: Any) -> ImageTokenizer:
    torch.manual_seed(0)
    shape = {"channels": 8, "multipliers": (1, 2), "attention": (1,), "width": 8, **options}
    return ImageTokenizer(
        ImageTokenizerConfig(image_size=32, backbone=ConvConfig(**shape), quantizer=VQConfig(size=32, dim=8))
    )


@pytest.mark.parametrize(("multipliers", "grid"), [((1, 2), 16), ((1, 1, 2), 8), ((1, 2, 2, 4), 4), ((1,) * 5, 2)])
def test_each_level_after_the_first_halves_the_resolution(multipliers: tuple[int, ...], grid: int) -> None:
    model = tokenizer(channels=4, multipliers=multipliers, encoder_blocks=1, decoder_blocks=1)
    codes = model.encode(IMAGES)
    assert codes.shape == (2, grid, grid)
    assert model.decode(codes).shape == (2, 3, 32, 32)


def test_fewer_rows_make_a_shorter_picture() -> None:
    model = tokenizer()
    assert model.decode(model.encode(IMAGES)[:, :3]).shape == (2, 3, 6, 32)


@pytest.mark.parametrize(("channels", "groups"), [(16, [4, 8]), (128, [32, 32]), (2, [1, 1])])
def test_a_norm_keeps_the_means_of_channels_apart(channels: int, groups: list[int]) -> None:
    """With a group for each channel, as narrow models had, reconstructions lost their color."""
    model = ImageTokenizer(ImageTokenizerConfig(backbone=ConvConfig(
        channels=channels, multipliers=(1, 2), attention=(), encoder_blocks=1, decoder_blocks=1, width=16
    )))  # fmt: skip
    norms = [module for module in model.encoder.modules() if isinstance(module, GroupNorm)]
    found = {norm.num_channels: norm.num_groups for norm in norms}
    assert found == dict(zip((channels, 2 * channels), groups, strict=True))


def test_an_option_of_one_half_changes_only_its_id() -> None:
    model, deeper = tokenizer(), tokenizer(decoder_blocks=1)
    deeper.encoder.load_state_dict(model.encoder.state_dict())
    deeper.quantizer.load_state_dict(model.quantizer.state_dict())
    assert model.codes_id == deeper.codes_id
    assert model.pixels_id != deeper.pixels_id


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"multipliers": []}, "multipliers is ()"),
        ({"encoder_blocks": 251}, "encoder_blocks is 251: must be at most 250"),  # a stranger's would take minutes
        ({"multipliers": [1, 0]}, "multipliers is (1, 0): must be 1 to 15 numbers from 1 to 1024"),
        ({"attention": [4]}, "attention is (4,): must be levels from 0 to 3"),
        ({"groups": 0}, "groups is 0: must be from 1"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        from_dict(ConvConfig, options)
    assert said in str(caught.value)
