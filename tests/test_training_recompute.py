"""Activation checkpointing: in both backbones of the image tokenizer, the token model and the diffusion transformer."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from tiny_models import TOKENS, captions, diffusion_model, token_model
from torch import Tensor, nn

from diffusion.dit import DiTConfig
from diffusion.model import DiffusionModel, DiffusionModelConfig
from seq2seq.loss import token_loss
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


def loss_of_images(model: ImageTokenizer) -> Tensor:
    made = model(to_float(IMAGES))
    return made.images.square().mean() + made.losses["commitment"]


def loss_of_tokens(model: nn.Module) -> Tensor:
    torch.manual_seed(0)  # dropout
    tokens = torch.randint(TOKENS.codebook_size, (2, TOKENS.length), generator=torch.Generator().manual_seed(0))
    return token_loss(model(captions(2), tokens), tokens, TOKENS.eos)[0]


def loss_of_latents(model: nn.Module) -> Tensor:
    torch.manual_seed(0)
    return model(torch.randn(2, *model.latent_shape), torch.tensor([0.2, 0.7]), captions(2)).square().mean()


def loss_and_kept(loss: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """A loss, and how many numbers it keeps for its backward pass."""
    count = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal count
        count += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return loss(), count


def assert_same(loss: Callable[[nn.Module], Tensor], plain: nn.Module, recomputing: nn.Module, less: float) -> None:
    """Loss and gradients are equal to the bit; `recomputing` keeps less than a share of `less` of the numbers."""
    (one, kept), (other, kept_again) = loss_and_kept(lambda: loss(plain)), loss_and_kept(lambda: loss(recomputing))
    assert torch.equal(one, other)
    assert kept_again < less * kept
    one.backward()
    other.backward()
    for (name, a), b in zip(plain.named_parameters(), recomputing.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        assert a.grad is None or torch.equal(a.grad, b.grad), name


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
    assert_same(loss_of_images, plain, recomputing, less=0.5)  # type: ignore[arg-type]


def test_the_token_model_draws_the_same_dropout_again() -> None:
    config = dataclasses.replace(TOKENS, dropout=0.3, encoder_depth=3, decoder_depth=3)
    plain, recomputing = (token_model(dataclasses.replace(config, recompute=again)) for again in (False, True))
    assert plain.model_id == recomputing.model_id
    assert_same(loss_of_tokens, plain.train(), recomputing.train(), less=0.6)


def seeded(config: DiffusionModelConfig) -> DiffusionModel:
    torch.manual_seed(0)
    model = DiffusionModel(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.15)
    return model


def test_the_diffusion_transformer() -> None:
    config = diffusion_model().config
    dit = DiTConfig(mlp_width=32, heads=2, depth=4, dropout=0.3)
    plain, recomputing = (
        seeded(dataclasses.replace(config, dit=dataclasses.replace(dit, recompute=again))) for again in (False, True)
    )
    assert plain.model_id == recomputing.model_id
    assert_same(loss_of_latents, plain.train(), recomputing.train(), less=0.6)
