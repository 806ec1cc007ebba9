"""The noise process: its closed forms against composed steps, Bayes' rule on a grid, and each other."""

import itertools
import math
from typing import Literal, get_args

import pytest
import torch

from diffusion.process import Process, ProcessConfig, Target
from training.errors import BadInput

SCHEDULES = ("linear", "cosine", "flow")
TARGETS: tuple[Target, ...] = get_args(Target)


def process(schedule: str, **options: object) -> Process:
    return Process(ProcessConfig(schedule=schedule, **{"target": "v", **options}))  # type: ignore[arg-type]


def papers_betas(schedule: str) -> list[float]:
    """DDPM section 4; Improved DDPM eq. 17."""
    if schedule == "linear":
        return [1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)]
    f = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(1001)]
    return [min(1 - f[t + 1] / f[t], 0.999) for t in range(1000)]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_marginal_is_the_composition_of_steps(schedule: str) -> None:
    """Composes x_t = sqrt(1 - beta_t) x_(t-1) + sqrt(beta_t) noise a thousand times."""
    signal, variance = 1.0, 0.0
    found = process(schedule)
    for t, beta in enumerate(papers_betas(schedule), start=1):
        signal, variance = signal * math.sqrt(1 - beta), (1 - beta) * variance + beta
        alpha, sigma = found.at(torch.tensor([float(t)]))
        assert alpha.item() == pytest.approx(signal, rel=1e-9)
        assert sigma.item() ** 2 == pytest.approx(variance, rel=1e-9)


def test_noisy_latents_have_the_mean_and_variance_of_the_marginal() -> None:
    x_0, t = torch.full((20_000, 1, 1, 1), 2.0), torch.full((20_000,), 300.0)
    x_t = process("cosine").add_noise(x_0, torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0)), t)
    alpha, sigma = (factor[0].item() for factor in process("cosine").at(t))
    assert x_t.mean().item() == pytest.approx(2 * alpha, abs=4 * sigma / math.sqrt(20_000))
    assert x_t.var().item() == pytest.approx(sigma**2, rel=4 * math.sqrt(2 / 20_000))


@pytest.mark.parametrize(("schedule", "s", "t"), [*itertools.product(SCHEDULES, [400, 99], [401, 700])])
def test_the_posterior_agrees_with_bayes_rule_on_a_grid(schedule: str, s: float, t: float) -> None:
    """q(x_s | x_t, x_0) is q(x_s | x_0) q(x_t | x_s), normalised, for one step and for many."""
    found, x_0, x_t = process(schedule), 0.7, -0.3
    times = torch.tensor([s, t])
    (alpha_s, alpha_t), (sigma_s, sigma_t) = (factor.flatten().tolist() for factor in found.at(times))
    factor = alpha_t / alpha_s
    variance = sigma_t**2 - factor**2 * sigma_s**2
    x_s = torch.linspace(-8, 8, 400_001, dtype=torch.float64)
    log = -((x_s - alpha_s * x_0) ** 2) / (2 * sigma_s**2) - (x_t - factor * x_s) ** 2 / (2 * variance)
    weights = log.softmax(0)
    mean = (weights * x_s).sum()
    spread = (weights * (x_s - mean) ** 2).sum()
    point = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    of_process = found.posterior_mean(x_0 * point, x_t * point, times[:1], times[1:])
    assert of_process.item() == pytest.approx(mean.item(), abs=1e-6)
    assert found.log_variance(times[:1], times[1:]).exp().item() == pytest.approx(spread.item(), rel=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_target_converts_to_the_others(schedule: str) -> None:
    """It goes through the estimates of x_0 and noise, with errors below 1e-5: in single precision where there is enough
    signal, and in double precision at all times."""
    found = process(schedule)
    generator = torch.Generator().manual_seed(0)
    for dtype, last in ((torch.float32, 900), (torch.float64, 999)):
        t = torch.arange(1.0, last + 1)
        x_0, noise = (torch.randn(last, 4, 2, 2, generator=generator, dtype=dtype) for _ in range(2))
        x_t = found.add_noise(x_0, noise, t)
        for said, wanted in itertools.product(TARGETS, TARGETS):
            estimate, its_noise = found.estimates(found.target(x_0, noise, t, said), x_t, t, said)
            made, true = found.target(estimate, its_noise, t, wanted), found.target(x_0, noise, t, wanted)
            # estimates divide by sigma, which is small at small t, or by alpha, which is small at large t
            alpha, sigma = found.at(t)
            room = 1e-5 if dtype == torch.float64 else 1e-6 / torch.minimum(alpha, sigma).clamp_max(0.1)
            assert ((made - true).abs() <= room).all(), (said, wanted)


def test_a_flow_moves_along_straight_lines() -> None:
    found = process("flow", target="velocity")
    x_0, noise = torch.randn(3, 2, 1, 1), torch.randn(3, 2, 1, 1)
    t = torch.tensor([100.0, 250.5, 900.0])
    here, there = found.add_noise(x_0, noise, t), found.add_noise(x_0, noise, t + 50)
    torch.testing.assert_close((there - here) / 0.05, found.target(x_0, noise, t), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_times_go_from_clean_latents_to_noise(schedule: str) -> None:
    found = process(schedule)
    assert (found.alpha[0], found.sigma[0]) == (1, 0)
    ratio = found.signal_to_noise(torch.arange(1.0, 1001))
    assert (ratio.diff() < 0).all()
    assert ratio[-1] < 1e-4
    times = found.sample_times(50_000, torch.Generator().manual_seed(0))
    assert 0 < times.min() <= times.max() <= 1000
    assert times.mean().item() == pytest.approx(500.5 if schedule != "flow" else 500, abs=4 * 289 / math.sqrt(50_000))
    if schedule != "flow":
        assert torch.equal(times, times.round())


@pytest.mark.parametrize("schedule", ["cosine", "flow"])
def test_logit_normal_times(schedule: Literal["cosine", "flow"]) -> None:
    """Compares quantiles with those of a normal distribution after a sigmoid."""
    found = Process(ProcessConfig(schedule=schedule, times="logit-normal", times_mean=0.8))
    times = found.sample_times(50_000, torch.Generator().manual_seed(0))
    assert 0 < times.min() <= times.max() <= 1000
    for share, deviate in ((0.1587, -1), (0.5, 0), (0.8413, 1)):
        expected = 1000 / (1 + math.exp(-(0.8 + deviate)))
        assert times.quantile(share).item() == pytest.approx(expected, abs=6)
    with pytest.raises(BadInput, match="times_mean"):
        ProcessConfig(times_mean=0.8)


def test_the_learned_variance_lies_between_posterior_and_beta() -> None:
    """Improved DDPM eq. 15; also at the last step back, where the posterior has no variance."""
    found = process("cosine")
    t = torch.tensor([1.0, 2.0, 500.0])
    low, high = (found.log_variance(t - 1, t, torch.full((3, 1, 1, 1), edge)) for edge in (-1.0, 1.0))
    betas = torch.tensor(papers_betas("cosine"), dtype=torch.float64)
    torch.testing.assert_close(high.exp().flatten()[1:], betas[[1, 499]])
    torch.testing.assert_close(low, found.log_variance(t - 1, t))
    assert (low < high).all()
    assert low.isfinite().all()


def test_options_that_exclude_each_other() -> None:
    with pytest.raises(BadInput, match="target is 'epsilon': must be x0, v or velocity with schedule flow"):
        ProcessConfig(schedule="flow", target="epsilon")
    with pytest.raises(BadInput, match="learned_variance is True: must be false with schedule flow"):
        ProcessConfig(schedule="flow", learned_variance=True)
