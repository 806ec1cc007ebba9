"""Guidance and filters, against closed forms and the implementations of transformers."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from sampling.logits import OptionTensors, draw_tokens, filtered, guided
from sampling.noise import gumbel
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


def test_guidance_keeps_tokens_ruled_out() -> None:
    """-inf minus -inf is nan: once, a token ruled out in both passes became nan."""
    logits = random_logits()
    logits[:, 7] = -torch.inf
    assert (guided(logits, 2.0)[:, 7] == -torch.inf).all()


def draw(**options: float) -> OptionTensors:
    return OptionTensors.of(SamplingOptions(**{"temperature": 1.0, **options}), 4, 200, torch.device("cpu"))  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [1, 5, 200, 1000])
def test_top_k_keeps_exactly_k_under_ties(k: int) -> None:
    logits = random_logits().round()  # full of ties
    kept = filtered(logits, draw(top_k=k))
    assert (kept.isfinite().sum(-1) == min(k, 200)).all()
    dropped = logits.masked_fill(kept.isfinite(), -torch.inf)
    if k < 200:
        assert (kept.masked_fill(kept == -torch.inf, torch.inf).amin(-1) >= dropped.amax(-1)).all()


@pytest.mark.parametrize("p", [0.01, 0.5, 0.9, 0.999])
def test_top_p_agrees_with_transformers(p: float) -> None:
    logits = random_logits()
    theirs = TopPLogitsWarper(p)(torch.zeros(16, 1), logits)
    assert torch.equal(filtered(logits, draw(top_p=p)), theirs)


@pytest.mark.parametrize("p", [0.01, 0.3, 1.0])
def test_min_p_agrees_with_transformers(p: float) -> None:
    logits = random_logits()
    theirs = MinPLogitsWarper(p)(torch.zeros(16, 1), logits)
    assert torch.equal(filtered(logits, draw(min_p=p)), theirs)


def test_filters_together_agree_with_transformers() -> None:
    """Ours use the probabilities at a temperature, and return the other logits unchanged."""
    logits = random_logits()
    ids = torch.zeros(16, 1)
    theirs = TopPLogitsWarper(0.8)(ids, TopKLogitsWarper(20)(ids, TemperatureLogitsWarper(0.7)(ids, logits)))
    ours = filtered(logits, draw(temperature=0.7, top_k=20, top_p=0.8))
    torch.testing.assert_close(ours / 0.7, theirs)


def test_samples_follow_the_temperature() -> None:
    """60,000 samples at temperature 0.5 against the softmax of twice the logits."""
    logits = torch.tensor([[1.0, 0.5, 0.0, -0.5]])
    noise = gumbel(torch.arange(60_000), 0, 4)
    found = torch.bincount(draw_tokens(logits.expand(60_000, -1), noise, draw(temperature=0.5)), minlength=4) / 60_000
    torch.testing.assert_close(found, (2 * logits[0]).softmax(-1), atol=0.01, rtol=0)


@pytest.mark.parametrize("options", [{}, {"top_p": 0.1}, {"top_k": 7}, {"min_p": 1.0}])
def test_temperature_zero_is_argmax_with_any_filter(options: dict[str, float]) -> None:
    logits = random_logits()
    noise = gumbel(torch.arange(16), 0, 200)
    assert torch.equal(draw_tokens(logits, noise, draw(temperature=0.0, **options)), logits.argmax(-1))


def test_a_graph_traced_once_serves_other_options() -> None:
    """Options are tensors: a graph traced with one temperature, k and p is right for all."""
    logits, noise = random_logits(), gumbel(torch.arange(16), 0, 200)
    traces = 0

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        nonlocal traces
        traces += 1
        return graph.forward

    compiled = torch.compile(draw_tokens, fullgraph=True, backend=backend)
    for options in ({"top_k": 3}, {"top_k": 50, "temperature": 0.3}, {"top_p": 0.5, "min_p": 0.02}):
        assert torch.equal(compiled(logits, noise, draw(**options)), draw_tokens(logits, noise, draw(**options)))
    assert traces == 1


def test_guidance_schedules() -> None:
    def scales(**options: Any) -> list[float]:
        return SamplingOptions(guidance=3.0, **options).guidance_scales(8)

    assert scales() == [3.0] * 8
    assert scales(guidance_schedule="linear") == pytest.approx([1 + 2 * t / 7 for t in range(8)])
    assert scales(guidance_schedule="cosine")[::7] == [1.0, 3.0]
    assert scales(guidance_schedule="cosine")[3] < scales(guidance_schedule="linear")[3] < 2 < 3
    assert scales(guidance_from=0.25, guidance_until=0.5) == [1.0, 1.0, 3.0, 3.0, 1.0, 1.0, 1.0, 1.0]
    assert SamplingOptions(guidance=3.0, guidance_until=0.5).guided_length(8) == 4
    assert SamplingOptions(guidance=1.0).guided_length(8) == 0


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("temperature", -0.1, "from 0 to 100"),
        ("temperature", float("nan"), "from 0 to 100"),
        ("guidance", -1.0, "from 0 to 100"),
        ("top_k", -1, "from 0 to below 2**31"),
        ("top_k", 2**64, "from 0 to below 2**31"),  # no tensor holds it
        ("top_p", 0.0, "greater than 0, at most 1"),
        ("top_p", 1.5, "greater than 0, at most 1"),
        ("min_p", -0.1, "from 0 to 1"),
        ("guidance_from", 1.1, "from 0 to 1"),
    ],
)
def test_options_out_of_range(field: str, value: float, wanted: str) -> None:
    with pytest.raises(BadInput, match=f"{field} is .*: must be {re.escape(wanted)}"):
        SamplingOptions(**{field: value})  # type: ignore[arg-type]


def test_guidance_may_not_end_before_it_begins() -> None:
    with pytest.raises(BadInput, match=r"guidance_until is 0\.4: must be from guidance_from 0\.5 to 1"):
        SamplingOptions(guidance_from=0.5, guidance_until=0.4)
