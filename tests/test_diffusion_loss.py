"""The training loss and the variational bound, against closed forms."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffusion.loss import bits_per_dimension, bound_term, diffusion_loss
from diffusion.process import Process, ProcessConfig, Target

SETTINGS: list[tuple[str, Target]] = [
    ("linear", "epsilon"), ("cosine", "v"), ("cosine", "x0"), ("cosine", "velocity"), ("flow", "velocity"),
]  # fmt: skip


def process(schedule: str, target: Target, **options: object) -> Process:
    return Process(ProcessConfig(schedule=schedule, target=target, **options))  # type: ignore[arg-type]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("schedule", "target"), SETTINGS)
def test_the_loss_of_a_perfect_predictor_is_0_and_of_a_zero_predictor_the_variance(
    schedule: str, target: Target
) -> None:
    found, x_0 = process(schedule, target), normal(4000, 2, 2, 2)

    def perfect(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (factor.float() for factor in found.at(t))
        return found.target(x_0, (x_t - alpha * x_0) / sigma, t)

    def zero(x_t: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x_t)

    assert diffusion_loss(perfect, found, x_0, torch.Generator().manual_seed(1)).item() < 1e-6
    variance = 2 if target == "velocity" else 1  # of unit latents and noise
    loss = diffusion_loss(zero, found, x_0, torch.Generator().manual_seed(1)).item()
    assert loss == pytest.approx(variance, rel=4 * math.sqrt(2 / x_0.numel()))


def test_the_loss_follows_algorithm_1_of_ddpm() -> None:
    """The denoiser is given alpha_t x_0 + sigma_t noise, and must predict the noise."""
    found, x_0, seen = process("linear", "epsilon"), normal(64, 1, 2, 2), []

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        seen.append((x_t, t))
        return torch.zeros_like(x_t)

    loss = diffusion_loss(denoise, found, x_0, torch.Generator().manual_seed(1))
    ((x_t, t),) = seen
    alpha, sigma = (factor.float() for factor in found.at(t))
    assert loss.item() == pytest.approx(((x_t - alpha * x_0) / sigma).square().mean().item(), rel=1e-4)
    assert len(t.unique()) > 50


@pytest.mark.parametrize(
    ("target", "formula"),
    [
        ("epsilon", lambda snr: min(snr, 5) / snr),
        ("x0", lambda snr: min(snr, 5)),
        ("v", lambda snr: min(snr, 5) / (snr + 1)),
    ],
)
def test_min_snr_weights_are_the_paper_s(target: Target, formula: Callable[[float], float]) -> None:
    """Section 3.4 of arXiv 2303.09556 has a formula for each target. All give the same weight on x_0."""
    found = process("cosine", target, min_snr=5.0)
    t = torch.tensor([1.0, 100.0, 400.0, 800.0, 999.0])
    expected = [formula(snr) for snr in found.signal_to_noise(t).tolist()]
    assert found.weight(t).tolist() == pytest.approx(expected, rel=1e-5)


def closed_form(found: Process, mean: float, variance: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Build the optimal denoiser for latents that are each N(mean, variance)."""

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = found.at(t)
        gain = alpha * variance / (alpha.square() * variance + sigma.square())
        x_0 = (mean + gain * (x_t - alpha * mean)).float()
        return found.target(x_0, ((x_t - alpha * x_0) / sigma).float(), t)

    return denoise


def test_the_bound_is_above_the_entropy_and_closer_with_more_steps() -> None:
    """The entropy of a normal is 0.5 log2(2 pi e variance) bits. The bound is above it, and closer with more steps.
    A gap remains, because fixed variances fit the first steps badly, however short they are."""
    mean, variance = 0.3, 0.25
    x_0 = mean + math.sqrt(variance) * normal(2000, 4, 1, 1)
    entropy = 0.5 * math.log2(2 * math.pi * math.e * variance)
    gaps = []
    for steps in (50, 200):
        found = process("cosine", "v", steps=steps)
        bits = bits_per_dimension(closed_form(found, mean, variance), found, x_0, torch.Generator().manual_seed(1))
        gaps.append(bits.mean().item() - entropy)
        error = 4 * (bits.std() / math.sqrt(len(bits))).item()
        assert gaps[-1] > -error
    assert gaps[1] < gaps[0] - 0.1
    assert gaps[1] < 1.1
    worse = bits_per_dimension(closed_form(found, 0.0, 1.0), found, x_0, torch.Generator().manual_seed(1))
    assert worse.mean() > bits.mean() + 0.1


def test_the_bound_over_a_few_times_is_close_to_the_whole_sum() -> None:
    found = process("cosine", "v", steps=200)
    x_0, denoise = 0.5 * normal(500, 4, 2, 2), closed_form(process("cosine", "v", steps=200), 0.0, 0.25)
    exact = bits_per_dimension(denoise, found, x_0, torch.Generator().manual_seed(1)).mean()
    some = bits_per_dimension(denoise, found, x_0, torch.Generator().manual_seed(1), times=40).mean()
    assert some.item() == pytest.approx(exact.item(), abs=0.1)


def test_the_hybrid_loss_trains_the_variance_by_the_bound_alone() -> None:
    """Improved DDPM section 3.1: no gradient of the bound reaches the prediction, only that of the simple loss does."""
    learned, plain = process("cosine", "v", learned_variance=True), process("cosine", "v")
    x_0 = normal(32, 2, 2, 2)
    said = torch.zeros(32, 4, 2, 2, requires_grad=True)
    diffusion_loss(lambda x, t: said, learned, x_0, torch.Generator().manual_seed(1)).backward()
    alone = torch.zeros(32, 2, 2, 2, requires_grad=True)
    diffusion_loss(lambda x, t: alone, plain, x_0, torch.Generator().manual_seed(1)).backward()
    assert said.grad is not None and alone.grad is not None
    torch.testing.assert_close(said.grad[:, :2], alone.grad)
    assert said.grad[:, 2:].abs().max() > 0


def test_a_term_of_the_bound_is_the_divergence_of_two_normals() -> None:
    found, t = process("linear", "x0"), torch.full((5,), 300.0)
    x_0, said, share = normal(5, 1, 1, 1), normal(5, 1, 1, 1, seed=1), normal(5, 1, 1, 1, seed=2)
    x_t = found.add_noise(x_0, normal(5, 1, 1, 1, seed=3), t)
    true, other = (found.posterior_mean(x, x_t, t - 1, t).double() for x in (x_0, said))
    true_spread, spread = ((0.5 * found.log_variance(t - 1, t, its)).exp() for its in (None, share))
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(true, true_spread), torch.distributions.Normal(other, spread)
    ) / math.log(2)
    torch.testing.assert_close(
        bound_term(found, x_0, x_t, t, said, share).double(), expected.flatten(), rtol=1e-4, atol=1e-6
    )
