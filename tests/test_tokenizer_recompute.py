"""Activation checkpointing in both backbones."""

import dataclasses

import pytest
import torch
from torch import Tensor

from tokenizer.conv import ConvConfig
from tokenizer.image_tokenizer import ImageTokenizer, ImageTokenizerConfig, to_float
from tokenizer.parts import BackboneConfig
from tokenizer.quantizers import VQConfig
from tokenizer.vit import ViTConfig

IMAGES = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def tokenizer(backbone: BackboneConfig) -> ImageTokenizer:
    torch.manual_seed(0)
    config = ImageTokenizerConfig(image_size=32, backbone=backbone, quantizer=VQConfig(size=32, dim=8))
    return ImageTokenizer(config).train()


def loss_and_kept(model: ImageTokenizer) -> tuple[Tensor, int]:
    """A loss, and how many numbers it keeps for its backward pass."""
    count = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal count
        count += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        made = model(to_float(IMAGES))
        return made.images.square().mean() + made.losses["commitment"], count


@pytest.mark.parametrize(
    "backbone",
    [
        ConvConfig(channels=8, multipliers=(1, 2), attention=(1,), width=8),
        ViTConfig(width=16, heads=2, encoder_depth=4, decoder_depth=4, pixel_width=2, positions="rotary"),
    ],
)
def test_recomputing_keeps_less_and_changes_no_gradient_and_no_id(backbone: BackboneConfig) -> None:
    plain, recomputing = tokenizer(backbone), tokenizer(dataclasses.replace(backbone, recompute=True))  # type: ignore
    assert (plain.codes_id, plain.pixels_id) == (recomputing.codes_id, recomputing.pixels_id)
    (loss, kept), (again, kept_again) = loss_and_kept(plain), loss_and_kept(recomputing)
    assert torch.equal(loss, again)
    assert kept_again < kept / 2
    loss.backward()
    again.backward()
    for (name, one), other in zip(plain.named_parameters(), recomputing.parameters(), strict=True):
        assert one.grad is not None, name
        assert torch.equal(one.grad, other.grad), name
