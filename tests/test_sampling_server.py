"""The server: many threads get the pictures that each would get alone."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from queue import Full
from typing import Any

import pytest
import torch
from tiny_models import add_diffusion, save_bundle

from sampling import BackendOptions, Bundle, DiffusionOptions, SamplingOptions, Server, load
from training.errors import BadInput

PROMPTS = ["a noto emoji of a fox", "a twemoji emoji of a cat", "a fox", "a cat of a fox"]
GUIDED, PLAIN = SamplingOptions(guidance=2.0, temperature=1.0), SamplingOptions(guidance=1.0, temperature=1.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load(add_diffusion(save_bundle(tmp_path_factory.mktemp("both"))))


@pytest.fixture
def held(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Drawing waits for this event."""
    backend, go = bundle.backend("autoregressive"), threading.Event()
    draw_jobs = backend.draw_jobs

    def waiting(more: Any, *args: Any) -> Any:
        jobs = more(1)
        go.wait(10)
        turns = iter([jobs])
        return draw_jobs(lambda free: next(turns, []) or more(free), *args)

    monkeypatch.setattr(backend, "draw_jobs", waiting)
    yield go
    go.set()


def test_threads_get_what_they_would_get_alone(bundle: Bundle) -> None:
    """With mixed options and backends, more requests than rows, and candidates."""
    ways: list[BackendOptions] = [PLAIN, GUIDED, DiffusionOptions(steps=2), SamplingOptions(temperature=1.0, best_of=2)]
    asks = [(prompt, options, seed) for seed, options in enumerate(ways) for prompt in PROMPTS]
    with Server(bundle, rows=3) as server, ThreadPoolExecutor(8) as pool:
        found = [*pool.map(lambda ask: server.submit(*ask).result(60), asks)]
    for (prompt, options, seed), picture in zip(asks, found, strict=True):
        assert torch.equal(picture, bundle.generate([prompt], options=options, seed=seed)[0])


def test_a_stream_ends_with_the_picture(bundle: Bundle, held: threading.Event) -> None:
    with Server(bundle, rows=2) as server:
        streams = [server.submit(prompt, GUIDED) for prompt in PROMPTS]
        pictures = iter(streams[3])
        held.set()
        heights = [picture.shape[1] for picture in pictures]
    assert heights == sorted(heights)
    assert torch.equal([*streams[3]][-1], streams[3].result())
    assert torch.equal(streams[3].result(), bundle.generate(PROMPTS[3:], options=GUIDED)[0])


def test_the_queue_is_bounded_and_a_cancelled_request_leaves_it(bundle: Bundle, held: threading.Event) -> None:
    with Server(bundle, rows=2, waiting=2) as server:
        first = server.submit(PROMPTS[0], PLAIN)
        while server._waiting:  # until its turn has come
            pass
        second, third = (server.submit(prompt, PLAIN) for prompt in PROMPTS[1:3])
        with pytest.raises(Full):
            server.submit(PROMPTS[3])
        second.cancel()
        fourth = server.submit(PROMPTS[3], PLAIN)
        first.cancel()
        held.set()
        for stream in (first, second):
            with pytest.raises(CancelledError):
                stream.result(60)
            with pytest.raises(CancelledError):
                next(iter(stream))
        assert third.result(60).shape == fourth.result(60).shape
    with pytest.raises(RuntimeError, match="the server is closed"):
        server.submit(PROMPTS[0])


def test_an_error_reaches_only_its_own_stream(
    bundle: Bundle, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that stops the whole batch; and what cannot be drawn at all is refused at once."""
    encode = bundle.text.encode

    def failing(captions: Any) -> torch.Tensor:
        if "a fox" in captions:
            raise MemoryError("too large a fox")
        return encode(captions)

    with Server(bundle, rows=4) as server:
        for prompt, seed in (("", 0), (PROMPTS[0], -1)):
            with pytest.raises(BadInput):
                server.submit(prompt, seed=seed)
        streams = [server.submit(prompt, PLAIN) for prompt in PROMPTS]
        monkeypatch.setattr(bundle.text, "encode", failing)
        held.set()
        with pytest.raises(MemoryError, match="too large a fox"):
            streams[2].result(60)
        found = [streams[i].result(60) for i in (0, 1, 3)]
    assert all(
        torch.equal(*pair)
        for pair in zip(found, bundle.generate([PROMPTS[i] for i in (0, 1, 3)], options=PLAIN), strict=True)
    )


def test_an_error_before_any_request_is_taken_reaches_its_request(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, nobody was told, and the server tried the oldest request for ever."""
    backend = bundle.backend("autoregressive")
    draw_jobs = backend.draw_jobs

    def failing(more: Any, options: Any, *rest: Any) -> Any:
        if options.guidance > 1:
            raise MemoryError
        return draw_jobs(more, options, *rest)

    monkeypatch.setattr(backend, "draw_jobs", failing)
    with Server(bundle) as server:
        impossible, possible = ([server.submit(prompt, way) for prompt in PROMPTS[:2]] for way in (GUIDED, PLAIN))
        for stream in impossible:
            with pytest.raises(MemoryError):
                stream.result(60)
        assert all(stream.result(60).shape[2] == 12 for stream in possible)


def test_closing_cancels_what_is_drawn_alone_after_an_error(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, it cancelled none of them, because none was waiting or being drawn together."""
    asked, alone = threading.Event(), threading.Event()

    def failing(more: Any, options: Any, start: Any, rows: int) -> Iterator[Any]:
        asked.wait(10)
        (first, *others) = more(rows)
        if others:
            raise MemoryError
        alone.set()
        while not first.cancelled:
            time.sleep(0.001)
        yield from ()

    monkeypatch.setattr(bundle.backend("autoregressive"), "draw_jobs", failing)
    server = Server(bundle)
    streams = [server.submit(prompt, PLAIN) for prompt in PROMPTS]
    asked.set()
    assert alone.wait(10)
    server.close(cancel=True)
    assert all(stream._picture.cancelled() for stream in streams)


def test_closing_cancels_on_demand_and_after_an_error(bundle: Bundle, held: threading.Event) -> None:
    with pytest.raises(KeyError), Server(bundle) as server:
        streams = [server.submit(prompt, options) for prompt in PROMPTS for options in (PLAIN, GUIDED)]
        held.set()
        raise KeyError
    assert all(stream._picture.done() for stream in streams)
    assert any(stream._picture.cancelled() for stream in streams)
