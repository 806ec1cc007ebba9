"""Concurrent drawing: each call gets the pictures that it would get alone."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from test_diffusion_traced import model as denoising_model
from tiny_models import captions, token_model
from torch import Tensor

from diffusion.traced import with_traced_denoiser
from sampling.decode import Engine, Sampler
from sampling.diffuse import denoiser, sample, seeded_noise
from sampling.options import DiffusionOptions, SamplingOptions
from seq2seq.packed import packing

ENGINES: list[Engine] = ["plain", *(["packed"] if packing(torch.float32) else [])]  # type: ignore[list-item]
GUIDED, ALONE = SamplingOptions(guidance=2.0, parallel=0), SamplingOptions(guidance=1.0, temperature=1.0, parallel=0)


@pytest.fixture(autouse=True)
def _frequent_thread_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def at_once(calls: list[Callable[[], list[Tensor]]]) -> list[list[Tensor]]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def same(found: list[list[Tensor]], expected: list[list[Tensor]]) -> bool:
    pairs = [pair for one, other in zip(found, expected, strict=True) for pair in zip(one, other, strict=True)]
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("engine", ENGINES)
def test_threads_share_a_sampler(engine: Engine) -> None:
    """Batches of several sizes, guided and not, one token a pass and many; and some streams are abandoned."""
    model, text = token_model(), captions(6)

    def calls(sampler: Sampler) -> list[Callable[[], list[Tensor]]]:
        def left_half_way() -> list[Tensor]:
            rows = sampler.rows(text[:3], torch.arange(20, 23), GUIDED)
            return [next(rows)]

        return [
            lambda: sampler.draw(text[:3], torch.arange(3), GUIDED),
            lambda: sampler.draw(text[3:], torch.arange(10, 13), GUIDED),
            left_half_way,
            lambda: sampler.draw(text[1:3], torch.arange(2), ALONE),
            lambda: sampler.draw(text[2:5], torch.arange(3), SamplingOptions(guidance=2.0, parallel=4)),
        ]

    expected = [call() for call in calls(Sampler(model, engine))]
    shared = Sampler(model, engine)
    for _ in range(4):
        assert same(at_once(calls(shared)), expected)
    assert len(shared.drawn) == 4 * (3 + 3 + 2 + 3)


@pytest.mark.parametrize("engine", ENGINES)
def test_yielded_tokens_do_not_change(engine: Engine) -> None:
    """Two streams in turns, row by row; then another call."""
    sampler, text = Sampler(token_model(), engine), captions(2)
    expected = [
        [rows.clone() for rows in sampler.rows(text, torch.arange(first, first + 2), GUIDED)] for first in (0, 2)
    ]
    streams = [sampler.rows(text, torch.arange(first, first + 2), GUIDED) for first in (0, 2)]
    found: list[list[Tensor]] = [[], []]
    for pair in zip(*streams, strict=True):
        for rows, one in zip(found, pair, strict=True):
            rows.append(one)
    sampler.draw(text, torch.arange(4, 6), GUIDED)
    assert same(found, expected)


def test_buffers_of_an_abandoned_stream_are_reused() -> None:
    sampler, text = Sampler(token_model(), "plain"), captions(2)
    rows = sampler.rows(text, torch.arange(2), GUIDED)
    next(rows)
    assert not sampler._spare
    rows.close()  # type: ignore[attr-defined]
    (buffers,) = sampler._spare
    sampler.draw(text, torch.arange(2), GUIDED)
    assert sampler._spare == [buffers]


@pytest.mark.parametrize("denoising", ["dit", "unet"])
@pytest.mark.parametrize("traced", [False, True])
def test_threads_share_a_denoiser(denoising: str, traced: bool) -> None:
    """Its first calls are traced while others run."""
    plain, options = denoising_model(denoising), DiffusionOptions(steps=3)

    def drawing(of: int, model: object) -> Callable[[], list[Tensor]]:
        text = torch.randint(4, 2000, (of, 5), generator=torch.Generator().manual_seed(of))
        return lambda: [
            sample(
                denoiser(model, text, torch.full((1, 5), 3), options), plain.process,  # type: ignore[arg-type]
                seeded_noise(torch.arange(of), plain.latent_shape), options,
            )
        ]  # fmt: skip

    models = [with_traced_denoiser(plain) if traced else plain for _ in range(2)]
    expected = [drawing(of, models[0])() for of in (1, 2, 3)]
    for _ in range(2):
        assert same(at_once([drawing(of, models[1]) for of in (1, 2, 3)]), expected)
