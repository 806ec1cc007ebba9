"""Parallel decoding draws the same tokens as one-by-one decoding, in fewer passes where guesses are easy."""

import json
from pathlib import Path

import pytest
import torch
from tiny_models import TOKENS, captions, save_bundle, token_model

from sampling.bench_parallel import ParallelBenchOptions
from sampling.bench_parallel import main as bench
from sampling.decode import Sampler
from sampling.logits import OptionTensors
from sampling.noise import gumbel
from sampling.options import SamplingOptions
from sampling.parallel import decode_in_parallel
from training.errors import BadInput


def draw(sampler: Sampler, pictures: int, **options: float | None) -> list[list[int]]:
    settings = SamplingOptions(**{"temperature": 1.0, "parallel": 0, **options})  # type: ignore[arg-type]
    codes = sampler.draw(captions(6)[:pictures], torch.arange(pictures), settings)
    return [grid.flatten().tolist() for grid in codes]


@pytest.mark.parametrize("window", [2, 3, 4, 9, 100])
@pytest.mark.parametrize(
    "options",
    [
        {"guidance": 1.0},
        {"guidance": 2.5, "top_p": 0.9},
        {"temperature": 0.0},
        {"guidance": 3.0, "guidance_until": 0.4},
    ],
)
def test_it_draws_what_one_by_one_decoding_draws(window: int, options: dict[str, float]) -> None:
    """Pictures of a batch need different numbers of passes, and may end early."""
    for seed in range(3):
        sampler = Sampler(token_model(seed=seed), "plain")
        assert draw(sampler, 6, parallel=window, **options) == draw(sampler, 6, **options)


def test_a_picture_does_not_depend_on_the_others() -> None:
    sampler = Sampler(token_model(), "plain")
    assert draw(sampler, 6, parallel=4)[:2] == draw(sampler, 2, parallel=4)


def test_easy_pictures_take_few_passes() -> None:
    """A model that predicts the same at every position: a window is confirmed in the second pass."""
    model = token_model()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.zero_()
        model.decoder.norm.weight.fill_(1.0)
        model.decoder.columns.fill_(1.0)
        model.decoder.head.weight[7] = 1.0
    sampler = Sampler(model, "plain")
    drawn = draw(sampler, 3, temperature=0.0, guidance=1.0)
    assert drawn == [[7] * 9] * 3
    assert draw(sampler, 3, temperature=0.0, guidance=1.0, parallel=3) == drawn
    assert sampler.drawn[0] == (9, 9)
    assert sampler.drawn[-1].passes <= 4


def test_a_few_pictures_on_a_cpu_are_drawn_in_parallel_by_default() -> None:
    sampler = Sampler(token_model(), "plain")
    for pictures in (1, 4):
        before = len(sampler.drawn)
        assert draw(sampler, pictures, parallel=None) == draw(sampler, pictures, parallel=0)
        windows, one_by_one = sampler.drawn[before:][:pictures], sampler.drawn[before:][pictures:]
        assert one_by_one == [(9, 9)] * pictures
        assert all(drawn.passes <= 9 for drawn in windows)
    draw(sampler, 5, parallel=None)
    assert sampler.drawn[-5:] == [(9, 9)] * 5
    assert [sampler._default_window(count) for count in (1, 4, 5)] == [8, 8, 0]


def test_tokens_without_guidance_cost_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first window on that lies after the guided part in all pictures."""
    model = token_model()
    rows, extend = [], model.extend
    monkeypatch.setattr(model, "extend", lambda x, *rest: (rows.append(len(x)), extend(x, *rest))[1])
    draw(Sampler(model, "plain"), 2, parallel=2, guidance=2.0, guidance_until=0.3)
    assert rows == sorted(rows, reverse=True)
    assert {*rows} == {4, 2}


def test_never_more_passes_than_tokens() -> None:
    sampler = Sampler(token_model(), "plain")
    draw(sampler, 6, parallel=9)
    assert sampler.drawn[0].passes <= 9


def test_nothing_is_read_from_the_device_in_a_pass() -> None:
    """The meta device has no values to read."""
    with torch.no_grad(), torch.device("meta"):
        model = token_model().to("meta")
        cache = model.read(captions(2).to("meta"), guide=True)
        settings = OptionTensors.of(
            SamplingOptions(top_k=3), TOKENS.length, TOKENS.codebook_size + 1, torch.device("meta")
        )
        looks: list[torch.Tensor] = []
        tokens, passes = decode_in_parallel(
            model, cache, torch.arange(2), settings, 4, lambda: lambda done: bool(looks.append(done))
        )
    assert tokens.is_meta
    assert passes == len(looks) == TOKENS.length


def test_noise_at_different_positions() -> None:
    seeds, positions = torch.tensor([5, 9]), torch.tensor([[0, 3], [7, 1]])
    noise = gumbel(seeds[:, None], positions, 20)
    for i in range(2):
        for j in range(2):
            assert torch.equal(noise[i, j], gumbel(seeds[i : i + 1], int(positions[i, j]), 20)[0])


def test_it_does_not_take_known_tokens() -> None:
    known = torch.full((1, 9), -1)
    options = SamplingOptions(parallel=4)
    with pytest.raises(BadInput, match="parallel is for whole pictures"):
        Sampler(token_model(), "plain").draw(captions(1), torch.arange(1), options, known)
    with pytest.raises(BadInput, match="parallel is 1: must be 2 or more, or 0 for none"):
        SamplingOptions(parallel=1)


def test_the_benchmark_of_a_trained_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ParallelBenchOptions(
        model=str(save_bundle(tmp_path / "bundle")), prompts=3, windows=[2, 4], batch=[1, 2], timed=2, device="cpu",
        json=tmp_path / "bench.json",
    )  # fmt: skip
    bench(options)
    rows = json.loads(options.json.read_text())["rows"]
    assert [(row["temperature"], row["window"]) for row in rows[:3]] == [(1.0, 0), (1.0, 2), (1.0, 4)]
    assert all(row["same_pictures"] == row["pictures"] == 3 for row in rows)
    assert all(row["batch_1"]["passes"] <= 9 for row in rows)
    assert rows[0]["batch_2"]["tokens_a_pass"] == 1.0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 6 + 1
