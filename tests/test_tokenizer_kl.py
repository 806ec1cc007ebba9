"""Continuous latents: the KL bottleneck, and the image tokenizer with it."""

import copy
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import IMAGES
from torch import Tensor, distributions

from tokenizer.image_tokenizer import ImageTokenizer, to_float, to_uint8
from tokenizer.kl import DiagonalGaussian, KLConfig, nats_per_dimension
from tokenizer.losses import ReconstructionConfig, TokenizerLoss
from training.errors import BadInput
from training.pretrained import exported

CONFIG = dataclasses.replace(IMAGES, quantizer=KLConfig(dim=4))
PICTURES = torch.randint(0, 256, (16, 3, 12, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def model() -> ImageTokenizer:
    torch.manual_seed(0)
    model = ImageTokenizer(copy.deepcopy(CONFIG)).eval()
    model.calibrate(PICTURES.split(6))
    return model


@pytest.fixture
def bottleneck() -> DiagonalGaussian:
    torch.manual_seed(0)
    return DiagonalGaussian(6, 3)


def test_kl_is_that_of_torch(bottleneck: DiagonalGaussian) -> None:
    z = torch.randn(2, 3, 3, 6)
    posterior = distributions.Normal(bottleneck.mean(z), torch.exp(bottleneck.log_variance(z) / 2))
    expected = distributions.kl_divergence(posterior, distributions.Normal(0.0, 1.0))
    made, codes, losses = bottleneck(z)
    torch.testing.assert_close(losses["kl"], expected.mean())
    assert (made.shape, codes) == ((2, 3, 3, 6), None)


def test_samples_have_the_posterior_s_moments_and_gradients(bottleneck: DiagonalGaussian) -> None:
    """The gradient of the mean square of a sample, mean² + deviation², is twice both."""
    torch.nn.init.eye_(bottleneck.project_out.weight)
    z = torch.randn(1, 1, 1, 6).expand(20_000, 1, 1, 6)
    mean, log_variance = bottleneck.mean(z), bottleneck.log_variance(z)
    mean.retain_grad(), log_variance.retain_grad()
    bottleneck.mean.forward, bottleneck.log_variance.forward = lambda z: mean, lambda z: log_variance
    sample = (bottleneck(z)[0] - bottleneck.project_out.bias)[..., :3]
    deviation = torch.exp(log_variance / 2)[0]
    torch.testing.assert_close(sample.mean(0), mean[0], rtol=0, atol=0.03)
    torch.testing.assert_close(sample.std(0), deviation, rtol=0.03, atol=0)
    sample.square().sum(-1).mean().backward()
    torch.testing.assert_close(mean.grad.sum(0), 2 * mean[0], rtol=0, atol=0.06)
    torch.testing.assert_close(log_variance.grad.sum(0), deviation.square(), rtol=0.06, atol=0)


def test_extreme_variances_stay_finite(bottleneck: DiagonalGaussian) -> None:
    z = (1e4 * torch.randn(2, 3, 3, 6)).requires_grad_()
    made, _, losses = bottleneck(z)
    (made.mean() + losses["kl"]).backward()
    assert made.isfinite().all()
    assert z.grad.isfinite().all()


def test_the_bound_is_that_of_torch() -> None:
    images, made = torch.rand(2, 2, 3, 4, 4) * 2 - 1
    posterior = distributions.Normal(torch.randn(2, 2, 2, 5), torch.rand(2, 2, 2, 5) + 0.1)
    kl = distributions.kl_divergence(posterior, distributions.Normal(0.0, 1.0))
    likelihood = distributions.Normal(made, 1.0).log_prob(images)
    expected = (kl.flatten(1).sum(1) - likelihood.flatten(1).sum(1)).mean() / images[0].numel()
    torch.testing.assert_close(nats_per_dimension(made, images, kl.mean(), 20), expected)
    best = nats_per_dimension(images, images, torch.zeros(()), 20)
    assert best.item() == pytest.approx(0.5 * math.log(2 * math.pi))


def test_the_loss_weighs_the_divergence(model: ImageTokenizer) -> None:
    images = to_float(PICTURES)
    made = model(images)
    objective = TokenizerLoss(ReconstructionConfig(l1=0, l2=1, perceptual=0), KLConfig(dim=4, kl=0.5))
    total, terms = objective(made, images)
    torch.testing.assert_close(total, terms["l2"] + 0.5 * made.losses["kl"])
    total.backward()
    assert model.encoder.embed.weight.grad.abs().sum() > 0


def test_it_learns_pictures_by_heart() -> None:
    torch.manual_seed(0)
    model, images = ImageTokenizer(CONFIG), to_float(PICTURES[:4]).mean((2, 3), keepdim=True).expand(4, 3, 12, 12)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    errors = []
    for _ in range(40):
        made = model(images)
        errors.append((made.images - images).square().mean().item())
        optimizer.zero_grad()
        ((made.images - images).square().mean() + 1e-4 * made.losses["kl"]).backward()
        optimizer.step()
    assert errors[-1] < errors[0] / 10


def test_latents_are_the_standardised_mean(model: ImageTokenizer) -> None:
    latents = model.latents(PICTURES)
    assert (latents.shape, latents.dtype) == ((16, 4, 3, 3), torch.float32)
    assert torch.equal(latents, model.latents(PICTURES))  # not a sample
    z = latents.transpose(0, 1).flatten(1)
    torch.testing.assert_close(z.mean(1), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.std(1), torch.ones(4), rtol=0, atol=1e-5)
    mean = model.quantizer.mean(model.encoder(to_float(PICTURES)))
    back = latents.permute(0, 2, 3, 1) * model.latent_std + model.latent_mean
    torch.testing.assert_close(back, mean, rtol=1e-5, atol=1e-6)


def test_latents_decode_to_the_pictures_of_the_mean(model: ImageTokenizer) -> None:
    mean = model.quantizer.mean(model.encoder(to_float(PICTURES)))
    expected = to_uint8(model.decoder(model.quantizer.project_out(mean)).detach())
    assert torch.equal(model.reconstruct(PICTURES), expected)
    decoded = model.decode_latents(model.latents(PICTURES))
    assert (decoded.int() - expected.int()).abs().max() <= 1  # standardisation rounds
    assert model.decode_latents(model.latents(PICTURES)[:, :, :2]).shape == (16, 3, 8, 12)
    with pytest.raises(BadInput, match=r"must be \(B, 4, h, 3\)"):
        model.decode_latents(torch.zeros(1, 3, 3, 3))


def test_pictures_from_the_prior(model: ImageTokenizer) -> None:
    one, same = (model.decode_prior(2, torch.Generator().manual_seed(1)) for _ in range(2))
    assert (one.shape, one.dtype) == ((2, 3, 12, 12), torch.uint8)
    assert torch.equal(one, same)
    assert not torch.equal(one[0], one[1])


@pytest.mark.parametrize(
    "use",
    [
        lambda model: model.encode(PICTURES),
        lambda model: model.decode(torch.zeros(1, 3, 3, dtype=torch.int64)),
        lambda model: model.codes_id,
        lambda model: model.codebook_size,
    ],
    ids=["encode", "decode", "codes_id", "codebook_size"],
)
def test_there_are_no_codes(model: ImageTokenizer, use: Callable[[ImageTokenizer], object]) -> None:
    assert not model.has_codes
    with pytest.raises(BadInput, match="has continuous latents and no codes: train one with a quantizer"):
        use(model)


@torch.no_grad()
def nudge(tensor: Tensor) -> None:
    tensor.flatten()[0] += 1


Nudge = Callable[[ImageTokenizer], None]
NUDGES: dict[str, tuple[Nudge, set[str]]] = {
    "encoder": (lambda m: nudge(m.encoder.embed.weight), {"latents_id"}),
    "mean": (lambda m: nudge(m.quantizer.mean.weight), {"latents_id"}),
    "variance": (lambda m: nudge(m.quantizer.log_variance.weight), set()),
    "latent mean": (lambda m: nudge(m.latent_mean), {"latents_id"}),
    "latent deviation": (lambda m: nudge(m.latent_std), {"latents_id"}),
    "project_out": (lambda m: nudge(m.quantizer.project_out.bias), {"pixels_id"}),
    "decoder": (lambda m: nudge(m.decoder.head[2].bias), {"pixels_id"}),
    "weight of the divergence": (lambda m: setattr(m.config.quantizer, "kl", 1.0), set()),
}


@pytest.mark.parametrize(("change", "changed"), NUDGES.values(), ids=NUDGES.keys())
def test_ids_change_with_what_decides_latents_and_pixels(
    model: ImageTokenizer, change: Nudge, changed: set[str]
) -> None:
    before = model.ids
    assert before.keys() == {"latents_id", "pixels_id"}
    change(model)
    assert {name for name, value in model.ids.items() if value != before[name]} == changed


def test_export_save_and_load_keep_latents_and_ids(model: ImageTokenizer, tmp_path: Path) -> None:
    model.load_state_dict(exported(model))
    latents, ids = model.latents(PICTURES), model.ids
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    again = ImageTokenizer.from_pretrained(tmp_path)
    assert again.config == CONFIG
    assert again.ids == ids
    assert torch.equal(again.latents(PICTURES), latents)
