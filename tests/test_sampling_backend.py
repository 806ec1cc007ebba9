"""The interface of `Backend`, tested on both backends."""

import json
import threading
from pathlib import Path

import pytest
import torch
from tiny_models import add_diffusion, save_bundle
from torch import Tensor

from sampling import BackendOptions, Bundle, DiffusionOptions, SamplingOptions, Start, load
from sampling.backend import Job
from training.errors import BadInput

PROMPTS = ["a noto emoji of a fox", "a twemoji emoji of a cat"]
WAYS: list[BackendOptions] = [SamplingOptions(temperature=1.0, guidance=2.0), DiffusionOptions(steps=3)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_diffusion(save_bundle(tmp_path_factory.mktemp("both")))


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("options", WAYS, ids=lambda options: options.kind)
def test_a_stream_ends_with_the_pictures_of_draw(bundle: Path, options: BackendOptions) -> None:
    loaded = load(bundle)
    steps = list(loaded.stream(PROMPTS, seed=5, options=options))
    assert 3 <= len(steps) <= 4  # a row each; a look at the noise each, and the end
    assert same(steps[-1], loaded.generate(PROMPTS, seed=5, options=options))


@pytest.mark.parametrize("options", WAYS, ids=lambda options: options.kind)
def test_threads_draw_from_one_bundle(bundle: Path, options: BackendOptions) -> None:
    """Concurrent batches of several sizes and abandoned streams: each picture is as if drawn alone."""
    alone = load(bundle)
    batches = [[(PROMPTS[0], seed) for seed in range(count)] for count in (1, 2, 3)] * 2
    expected = [alone.draw(batch, options) for batch in batches]
    shared, found, errors = load(bundle), {}, []

    def draw(n: int) -> None:
        try:
            for _ in range(2):
                next(iter(shared.stream(PROMPTS, seed=n, options=options)))  # and no further
                found[n] = shared.draw(batches[n], options)
        except BaseException as error:  # pytest sees none of a thread's
            errors.append(error)

    threads = [threading.Thread(target=draw, args=(n,)) for n in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert all(same(found[n], expected[n]) for n in range(len(batches)))


def test_a_backend_says_what_it_cannot_do(bundle: Path) -> None:
    start = Start(image=torch.zeros(3, 12, 12, dtype=torch.uint8), mask=torch.ones(12, 12, dtype=torch.bool))
    loaded = load(bundle, engine="packed")
    with pytest.raises(BadInput, match="engine packed: backend diffusion has plain, traced here"):
        loaded.generate(PROMPTS[:1], options=WAYS[1])
    with pytest.raises(BadInput, match="only the token model can draw within a mask"):
        load(bundle).generate(PROMPTS[:1], options=WAYS[1], start=start)
    with pytest.raises(BadInput, match="backend autoregressive does not interpolate"):
        loaded.interpolate((PROMPTS[0], PROMPTS[1]), (0, 0), 3, WAYS[0])
    with pytest.raises(BadInput, match="engine quick: backend autoregressive has plain, packed, graph here"):
        load(bundle, engine="quick").generate(PROMPTS[:1])


def test_the_first_backend_of_a_bundle_is_the_default(bundle: Path) -> None:
    loaded = load(bundle)
    only = Bundle(text=loaded.text, tokenizer=loaded.tokenizer, models={"diffusion": loaded.models["diffusion"]})
    assert same(only.generate(PROMPTS[:1]), loaded.generate(PROMPTS[:1], options=DiffusionOptions()))
    with pytest.raises(BadInput, match=r"no autoregressive part: train one .* it has: --backend diffusion$"):
        only.generate(PROMPTS[:1], options=SamplingOptions())


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (["text", "tokenizer"], "lists no backend, so it is not a complete bundle"),
        (["text", "autoregressive"], "lists no tokenizer, so it is not a complete bundle"),
        (
            ["text", "tokenizer", "../up"],
            "lists a part '../up', which is not a backend; there are autoregressive, diff",
        ),
        (["text", "tokenizer", {}], "must list the bundle's parts"),
    ],
)
def test_a_damaged_bundle_index(bundle: Path, tmp_path: Path, parts: list[object], said: str) -> None:
    (tmp_path / "bundle.json").write_text(json.dumps({"version": 1, "parts": parts}))
    with pytest.raises(BadInput) as raised:
        load(tmp_path)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "field", "wanted", "found"),
    [
        ("autoregressive", "grid", 1024, 3),
        ("autoregressive", "depth", 2, 1),
        ("autoregressive", "codebook_size", 21, 20),
        ("autoregressive", "text_vocab_size", 9, 273),
        ("autoregressive", "text_length", 9, 64),
        ("diffusion", "grid", 1024, 3),
        ("diffusion", "channels", 5, 4),
    ],
)
def test_a_model_has_the_shape_of_the_tokenizers(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, kind: str, field: str, wanted: int, found: int
) -> None:
    """Its config claims the right ids. Once, a grid of 1024 made the sampler allocate tens of gigabytes."""
    its = load(bundle)
    monkeypatch.setattr(its.models[kind].config, field, wanted)
    with pytest.raises(BadInput, match=f"model has {field} {wanted}, but the tokenizer here has {found}"):
        Bundle(text=its.text, tokenizer=its.tokenizer, models=its.models)


def test_a_cancelled_job_is_not_begun(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a backend that draws batch by batch."""
    backend = load(bundle).backend("diffusion")
    batches: list[list[str]] = []

    def draw(captions: list[str], *_: object) -> list[Tensor]:
        batches.append(captions)
        return [torch.zeros(3)] * len(captions)

    monkeypatch.setattr(backend, "draw", draw)
    jobs = [Job(caption=name, seed=0, cancelled=name in "cde") for name in "abcdef"]
    turns = iter([jobs[:3], jobs[3:5], jobs[5:], []])
    finished = [one.job for one in backend.draw_jobs(lambda free: next(turns), WAYS[1], None, 3)]
    assert batches == [["a", "b"], ["f"]]
    assert finished == [jobs[0], jobs[1], jobs[5]]
