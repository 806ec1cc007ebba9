"""Guidance and filters, against closed forms and the implementations in transformers."""

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from sampling.logits import guided, scores, top_k, top_p
from sampling.options import SamplingOptions
from training.errors import BadInput


def random_logits() -> torch.Tensor:
    return 3 * torch.randn(16, 200, generator=torch.Generator().manual_seed(0))


def test_guidance() -> None:
    logits = random_logits()
    conditional, unconditional = logits.chunk(2)
    torch.testing.assert_close(guided(logits, 1.0), conditional)
    torch.testing.assert_close(guided(logits, 0.0), unconditional)
    torch.testing.assert_close(guided(logits, 3.0), 3 * conditional - 2 * unconditional)


def test_guidance_keeps_what_is_ruled_out() -> None:
    """-inf minus -inf is nan: a token ruled out in both passes once came back as one."""
    logits = random_logits()
    logits[:, 7] = -torch.inf
    assert (guided(logits, 2.0)[:, 7] == -torch.inf).all()


@pytest.mark.parametrize("k", [1, 5, 200, 1000])
def test_top_k_keeps_exactly_k_under_ties(k: int) -> None:
    logits = random_logits().round()  # full of ties
    kept = top_k(logits, k)
    assert (kept.isfinite().sum(-1) == min(k, 200)).all()
    dropped = logits.masked_fill(kept.isfinite(), -torch.inf)
    if k < 200:
        assert (kept.masked_fill(kept == -torch.inf, torch.inf).amin(-1) >= dropped.amax(-1)).all()


@pytest.mark.parametrize("p", [0.01, 0.5, 0.9, 0.999])
def test_top_p_agrees_with_transformers(p: float) -> None:
    logits = random_logits()
    theirs = TopPLogitsWarper(p)(torch.zeros(16, 1), logits)
    assert torch.equal(top_p(logits, p), theirs)


def test_scores_agree_with_transformers() -> None:
    logits = random_logits()
    ids = torch.zeros(16, 1)
    theirs = TopPLogitsWarper(0.8)(ids, TopKLogitsWarper(20)(ids, TemperatureLogitsWarper(0.7)(ids, logits)))
    assert torch.equal(scores(logits, SamplingOptions(temperature=0.7, top_k=20, top_p=0.8)), theirs)


@pytest.mark.parametrize("p", [0.1, 1.0])
def test_temperature_zero_is_argmax_whatever_else_is_asked(p: float) -> None:
    logits = random_logits()
    kept = scores(logits, SamplingOptions(temperature=0, top_p=p, top_k=7))
    assert (kept.isfinite().sum(-1) == 1).all()
    assert torch.equal(kept.argmax(-1), logits.argmax(-1))


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("temperature", -0.1, "from 0 to 100"),
        ("temperature", float("nan"), "from 0 to 100"),
        ("guidance", -1.0, "from 0 to 100"),
        ("top_k", -1, "0 or more"),
        ("top_p", 0.0, "greater than 0, at most 1"),
        ("top_p", 1.5, "greater than 0, at most 1"),
    ],
)
def test_options_out_of_range(field: str, value: float, wanted: str) -> None:
    with pytest.raises(BadInput, match=f"{field} is .*: must be {wanted}"):
        SamplingOptions(**{field: value})  # type: ignore[arg-type]
