"""Noise as a function of (seed, position, token): fixed, well distributed, and uncorrelated in every direction."""

import math

import pytest
import torch

from sampling.noise import gumbel

EULER = 0.5772156649


def test_the_noise_is_fixed() -> None:
    """If these numbers change, every picture drawn before changes too."""
    noise = gumbel(torch.tensor([0, 1, 2**40]), 3, 4)
    assert noise.dtype == torch.float32
    expected = torch.tensor(
        [
            [1.211711, -0.173273, 0.655719, 1.101811],
            [0.197929, -1.77704, 0.427716, 1.076053],
            [0.993743, 0.460093, 1.664851, -1.06974],
        ]
    )
    torch.testing.assert_close(noise, expected, atol=1e-5, rtol=0)


def test_it_depends_only_on_seed_position_and_token() -> None:
    seeds = torch.tensor([7, 123456789, 5])
    whole = gumbel(seeds, 11, 300)
    assert torch.equal(whole[1:2], gumbel(seeds[1:2], 11, 300))
    assert torch.equal(whole[:, :50], gumbel(seeds, 11, 50))
    assert torch.equal(whole, gumbel(seeds, torch.tensor(11), 300))


def test_moments_and_tails() -> None:
    noise = torch.cat([gumbel(torch.arange(200), t, 2048) for t in range(4)]).double()
    assert noise.isfinite().all()
    count = noise.numel()
    assert noise.mean().item() == pytest.approx(EULER, abs=4 * math.sqrt(math.pi**2 / 6 / count))
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, rel=4 * math.sqrt(4.4 / count))
    uniform = torch.exp(-torch.exp(-noise)).flatten()
    cells = torch.histc(uniform, bins=256, min=0, max=1)
    chi2 = ((cells - count / 256) ** 2 / (count / 256)).sum().item()
    assert 255 - 5 * math.sqrt(2 * 255) < chi2 < 255 + 5 * math.sqrt(2 * 255)


@pytest.mark.parametrize("shift", ["seed", "position", "token"])
def test_neighbours_are_uncorrelated(shift: str) -> None:
    seeds = torch.arange(1000, 1256)
    a = torch.stack([gumbel(seeds, t, 512) for t in range(8)])
    b = {"seed": a[:, 1:], "position": a[1:], "token": a[:, :, 1:]}[shift]
    a = {"seed": a[:, :-1], "position": a[:-1], "token": a[:, :, :-1]}[shift]
    correlation = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1].item()
    assert abs(correlation) < 5 / math.sqrt(a.numel())


def test_argmax_samples_from_the_softmax() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -torch.inf])
    draws = (logits + gumbel(torch.arange(40_000), 5, 5)).argmax(-1)
    found = torch.bincount(draws, minlength=5).double()
    expected = logits.softmax(-1).double() * len(draws)
    chi2 = ((found - expected)[:4] ** 2 / expected[:4]).sum().item()
    assert chi2 < 22  # three degrees of freedom, p < 1e-4
    assert found[4] == 0
