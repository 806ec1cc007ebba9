"""Metrics against closed forms and their formulas."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from evaluation.metrics import mean, perplexity, psnr, ssim, usage


def pictures(seed: int, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    smooth = F.interpolate(torch.rand(count, 3, 6, 6, generator=generator), size=(32, 32), mode="bilinear")
    return (smooth * 255).to(torch.uint8)


def test_psnr_of_a_known_error() -> None:
    a = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
    b = torch.full((1, 3, 8, 8), 110, dtype=torch.uint8)
    assert psnr(a, b).item() == pytest.approx(20 * math.log10(255 / 10))
    assert psnr(a, a).item() == 100
    assert psnr(torch.cat([a, a]), torch.cat([a, b])).shape == (2,)


def test_ssim_agrees_with_the_formula() -> None:
    """Wang et al. 2004, equation 13, with an 11-pixel Gaussian window of sigma 1.5, edges reflected."""
    a, b = pictures(0), pictures(1)
    x = torch.arange(11) - 5.0
    line = torch.exp(-x.square() / (2 * 1.5**2))
    window = (line[:, None] * line / line.sum() ** 2).expand(3, 1, 11, 11).double()

    def local(v: Tensor) -> Tensor:
        return F.conv2d(F.pad(v, (5, 5, 5, 5), mode="reflect"), window, groups=3)

    p, q = a.double(), b.double()
    mu_p, mu_q = local(p), local(q)
    var_p, var_q, cov = local(p * p) - mu_p**2, local(q * q) - mu_q**2, local(p * q) - mu_p * mu_q
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = (2 * mu_p * mu_q + c1) * (2 * cov + c2) / ((mu_p**2 + mu_q**2 + c1) * (var_p + var_q + c2))
    torch.testing.assert_close(ssim(a, b).double(), values.mean((1, 2, 3)), atol=1e-4, rtol=0)
    torch.testing.assert_close(ssim(a, a), torch.ones(3))


def test_more_noise_scores_worse() -> None:
    clean = pictures(2)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    noisy = [(clean + level * noise).clamp(0, 255).to(torch.uint8) for level in (2, 10, 50)]
    for metric in (psnr, ssim):
        values = [metric(made, clean).mean().item() for made in noisy]
        assert values == sorted(values, reverse=True)


def test_usage_and_perplexity() -> None:
    codes = torch.tensor([[0, 1], [2, 3]])
    assert usage(codes, 8) == 0.5
    assert perplexity(codes, 8) == pytest.approx(4)
    assert perplexity(torch.zeros(5, dtype=torch.long), 8) == pytest.approx(1)
    skewed = torch.tensor([0, 0, 0, 1])
    assert perplexity(skewed, 8) == pytest.approx(math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))))


def test_the_bootstrap_interval_is_that_of_the_normal_approximation() -> None:
    values = torch.randn(2000, generator=torch.Generator().manual_seed(4)) * 3 + 7
    metric = mean(values)
    assert metric.value == pytest.approx(values.mean().item())
    assert metric.low is not None
    assert metric.high is not None
    half = 1.96 * values.std().item() / math.sqrt(2000)
    assert metric.low == pytest.approx(metric.value - half, abs=0.15 * half)
    assert metric.high == pytest.approx(metric.value + half, abs=0.15 * half)
    assert mean(values) == metric  # the resampling is fixed


def test_more_pictures_of_the_same_prompts_do_not_narrow_the_interval_as_more_prompts_would() -> None:
    """Once, four equal pictures of each prompt had an interval half as wide as one of each."""
    values = torch.randn(300, generator=torch.Generator().manual_seed(5))
    prompts = [f"{i}" for i in range(300)]
    assert mean(values, clusters=prompts) == mean(values)
    four = mean(values.repeat(4), clusters=prompts * 4).to_dict()
    assert four == pytest.approx(mean(values).to_dict())
    order = torch.randperm(300, generator=torch.Generator().manual_seed(6)).tolist()
    uneven = ["first", *prompts[1:200], *["last"] * 100]
    shuffled = mean(values[order], clusters=[uneven[i] for i in order])
    assert shuffled.to_dict() == pytest.approx(mean(values, clusters=uneven).to_dict())


def test_fractions_of_all_or_none_have_an_interval() -> None:
    """Once, ten of ten had an interval of no width. By Wilson (1927) its lower end is 10 / (10 + 1.96^2)."""
    sure = mean(torch.ones(10, dtype=torch.bool)).to_dict()
    assert sure == pytest.approx({"value": 1, "low": 10 / (10 + 1.959964**2), "high": 1, "higher_is_better": True})
    never = mean(torch.zeros(40, dtype=torch.bool), clusters=[str(i // 4) for i in range(40)])
    assert never.to_dict() == pytest.approx(
        {"value": 0, "low": 0, "high": 1 - 10 / (10 + 1.959964**2), "higher_is_better": True}
    )
    mixed = torch.tensor([True, False] * 20)
    assert mean(mixed) == mean(mixed.float())


def test_pictures_of_one_prompt_alone_have_no_interval() -> None:
    assert mean(torch.tensor([1.0, 3.0]), clusters=["a", "a"]).to_dict() == {
        "value": 2.0, "low": None, "high": None, "higher_is_better": True
    }  # fmt: skip
