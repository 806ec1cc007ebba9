"""Continuous batching: each picture is what it is alone, and no row waits for another."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from test_sampling_decode import graph_sampler, graphs  # noqa: F401
from tiny_models import TOKENS, captions, token_model
from torch import Tensor

import sampling.decode
from sampling.backend import Job
from sampling.continuous import Picture
from sampling.decode import DelayedRead, Sampler
from sampling.options import SamplingOptions
from seq2seq.packed import packing

COUNT = 8
WAYS = [
    SamplingOptions(guidance=1.0, temperature=1.0, parallel=0),
    SamplingOptions(guidance=2.0, guidance_until=0.5, temperature=1.0, parallel=0),
]


@pytest.fixture
def early_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pictures end after one row or two."""
    draw = sampling.decode.draw_tokens

    def ends_early(logits: Tensor, *others: Any) -> Tensor:
        eos = torch.arange(logits.shape[-1], device=logits.device) == TOKENS.eos
        return draw(logits + 3.0 * eos, *others)

    monkeypatch.setattr(sampling.decode, "draw_tokens", ends_early)


def asked() -> list[Picture]:
    """Pictures with captions of several lengths, the longest one last."""
    return [
        Picture(job=Job(caption="", seed=seed), text=text, seed=seed)
        for seed, text in enumerate([*captions(COUNT // 2), *captions(COUNT // 2)])
    ]


def given(pictures: Sequence[Picture]) -> Callable[[int], list[Picture]]:
    waiting = [*pictures]
    return lambda free: [waiting.pop(0) for _ in range(min(free, len(waiting)))]


def drawn(sampler: Sampler, pictures: Sequence[Picture], options: SamplingOptions, rows: int) -> list[Tensor]:
    found: dict[Picture, Tensor] = {}
    for picture, tokens in sampler.continuously(given(pictures), options, rows):
        assert picture not in found
        if picture.ended:
            (found[picture],) = sampler.pictures(tokens[None])
    return [found[picture] for picture in pictures]


def alone(sampler: Sampler, options: SamplingOptions) -> list[Tensor]:
    return [
        sampler.draw(picture.text[None], torch.tensor([picture.seed]), options)[0] for picture in asked()
    ]  # fmt: skip


def same(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("options", WAYS, ids=["unguided", "guided"])
@pytest.mark.parametrize("engine", ["plain", "packed"])
@pytest.mark.usefixtures("early_ends")
def test_a_picture_is_as_if_drawn_alone(engine: Any, options: SamplingOptions) -> None:
    """In rows that others of other lengths had before, beside others at other positions."""
    if engine == "packed" and not packing(torch.float32):
        pytest.skip("this processor cannot pack linear layers")
    sampler = Sampler(token_model(), engine, dtypes={1: torch.float32})
    expected = alone(sampler, options)
    assert {len(codes) for codes in expected} == {1, 2, 3}
    for rows in (3, COUNT):
        assert same(drawn(sampler, asked(), options, rows), expected)


@pytest.mark.usefixtures("early_ends")
def test_graphs_and_late_answers(graphs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """As on a GPU: with recorded steps, and with a host that learns two steps late what has ended."""

    class Late(DelayedRead[Any]):
        def __call__(self, values: Tensor, label: Any) -> Any:
            answers.append((values.clone(), label))
            return answers.pop(0) if len(answers) == 3 else None

    answers: list[Any] = []
    sampler = graph_sampler(token_model())
    expected = alone(sampler, WAYS[1])
    monkeypatch.setattr(sampling.decode, "DelayedRead", Late)
    assert same(drawn(sampler, asked(), WAYS[1], 3), expected)  # in four rows, the size of a recorded batch


def steps_of(sampler: Sampler, draw: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> int:
    calls: list[int] = []
    advance = sampler._advance
    with monkeypatch.context() as patch:
        patch.setattr(sampler, "_advance", lambda *args, **kwargs: calls.append(1) or advance(*args, **kwargs))
        draw()
    return len(calls)


@pytest.mark.usefixtures("early_ends")
def test_no_row_waits_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps are those of the tokens that are drawn, shared between the rows, and what the last pictures take."""
    sampler, options, pictures = Sampler(token_model(), "plain"), WAYS[0], asked()
    steps = steps_of(sampler, lambda: drawn(sampler, pictures, options, 2), monkeypatch)
    tokens = sum(picture.position for picture in pictures)
    assert tokens / 2 <= steps < tokens / 2 + TOKENS.length
    text, seeds = torch.stack([one.text for one in pictures]), torch.arange(COUNT)
    pairs = [slice(i, i + 2) for i in range(0, COUNT, 2)]
    apart = sum(steps_of(sampler, lambda i=i: sampler.draw(text[i], seeds[i], options), monkeypatch) for i in pairs)
    assert steps < apart


@pytest.mark.usefixtures("early_ends")
def test_the_row_of_a_cancelled_picture_is_given_away() -> None:
    sampler, pictures = Sampler(token_model(), "plain"), asked()
    expected = alone(sampler, WAYS[0])
    found: dict[int, Tensor] = {}
    for picture, tokens in sampler.continuously(given(pictures), WAYS[0], 2):
        assert not picture.job.cancelled
        pictures[0].job.cancelled = True  # after its first row
        if picture.ended:
            (found[picture.seed],) = sampler.pictures(tokens[None])
    assert pictures[0].position == TOKENS.grid
    assert same([found[i] for i in range(1, COUNT)], expected[1:])


@pytest.mark.usefixtures("early_ends")
def test_known_tokens() -> None:
    sampler, known = Sampler(token_model(), "plain"), torch.full((1, TOKENS.length), -1)
    known[0, 4] = 7
    for picture, tokens in sampler.continuously(given(asked()[:3]), WAYS[0], 2, known):
        if picture.ended:
            expected = sampler.draw(picture.text[None], torch.tensor([picture.seed]), WAYS[0], known)
            assert same(sampler.pictures(tokens[None]), expected)
            assert tokens[4] == 7


@pytest.mark.usefixtures("early_ends")
def test_tokens_are_counted_up_to_the_end_of_a_picture() -> None:
    """Once, a picture that ended early counted as a whole one: as if its passes had drawn several tokens each."""
    sampler = Sampler(token_model(), "plain")
    drawn(sampler, asked(), WAYS[0], 3)
    alone(sampler, WAYS[0])
    one, other = sampler.drawn[:COUNT], sampler.drawn[COUNT:]
    assert sorted(one) == sorted(other)
    assert {*one} == {(4, 4), (7, 7), (9, 9)}
    text = torch.stack([picture.text for picture in asked()])
    together = [len(codes) for codes in sampler.draw(text, torch.arange(COUNT), WAYS[0])]
    assert sampler.drawn[-COUNT:] == [({1: 4, 2: 7, 3: 9}[rows], TOKENS.length) for rows in together]


def test_pictures_may_be_asked_for_at_any_time() -> None:
    """One that comes when the others have half their tokens; drawing ends when nothing is left."""
    sampler, pictures = Sampler(token_model(), "plain"), asked()[:2]
    asks: Iterator[list[Picture]] = iter([pictures[:1], *[[]] * 4, pictures[1:]])
    ended = [one for one, _ in sampler.continuously(lambda free: next(asks, []), WAYS[0], 2) if one.ended]
    assert ended == pictures
    assert sampler.drawn == [(TOKENS.length, TOKENS.length)] * 2
