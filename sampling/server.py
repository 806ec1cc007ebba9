"""`Server` draws the pictures that any number of threads ask for, together."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import cache, partial
from queue import Full
from types import TracebackType
from typing import Self

from torch import Tensor

from sampling.backend import Job
from sampling.options import BackendOptions
from sampling.pipeline import Bundle, check_prompt, check_seed


class Stream:
    """One request: iterate over it for the picture so far, as often as it changes, and at last the finished picture.

    Pixels are made in the thread that asks for them. A slow reader misses unfinished pictures and delays nobody.
    """

    def __init__(self, job: Job, options: BackendOptions) -> None:
        self.job, self.options = job, options
        self._changed = threading.Condition()
        self._latest: Callable[[], Tensor] | None = None
        self._picture: Future[Callable[[], Tensor]] = Future()

    def result(self, timeout: float | None = None) -> Tensor:
        """Wait for the finished picture, uint8 (3, H, W) on the CPU.

        Raises what went wrong with this request; `concurrent.futures.CancelledError` if it was cancelled; and
        `TimeoutError` after `timeout` seconds.
        """
        return self._picture.result(timeout)()

    def cancel(self) -> None:
        """Give the picture up, unless it is finished. It is drawn no further than `Job.cancelled` says."""
        self.job.cancelled = True
        self._picture.cancel()
        self._show(None)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield pictures, uint8 (3, H so far, W); then raise as `result` does, if there is no finished one."""
        shown = None
        while (shown := self._later_than(shown)) is not None:
            yield shown()
        yield self.result()

    def _later_than(self, shown: Callable[[], Tensor] | None) -> Callable[[], Tensor] | None:
        """Wait for another unfinished picture; None if there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._picture.done() or self._latest is not shown)
            return None if self._picture.done() else self._latest

    def _show(self, picture: Callable[[], Tensor] | None) -> None:
        with self._changed:
            self._latest = picture
            self._changed.notify_all()

    def _end(self, result: Callable[[], Tensor] | Exception) -> None:
        if self._picture.set_running_or_notify_cancel():
            if isinstance(result, Exception):
                self._picture.set_exception(result)
            else:
                self._picture.set_result(cache(result))
        self._show(None)


class Server:
    """Draws what is submitted from any thread, up to `rows` pictures at a time, in a thread of its own.

    Requests are served in order. Those with the same options as the oldest one are drawn together, and a request joins
    as soon as a picture is finished. Use it in a `with` statement, or call `close`.

    With up to 4 rows on a CPU, the token model draws in windows by default: whole batches, without unfinished pictures.
    The option `parallel=0` draws one token after another instead.
    """

    def __init__(self, bundle: Bundle, *, rows: int = 8, waiting: int = 64) -> None:
        """`rows`: pictures drawn at a time, at most. `waiting`: requests that may wait, at most."""
        self.bundle, self.rows, self.most_waiting = bundle, rows, waiting
        self._changed, self._closed = threading.Condition(), False
        self._waiting: deque[Stream] = deque()
        self._drawing: dict[Job, Stream] = {}
        self._thread = threading.Thread(target=self._run, name="tessera server", daemon=True)
        self._thread.start()

    def submit(self, prompt: str, options: BackendOptions | None = None, seed: int = 0) -> Stream:
        """Ask for a picture; returns at once.

        Raises `queue.Full` if as many requests wait as may; `BadInput` for a prompt, seed or backend that cannot be
        drawn; `RuntimeError` after `close`.
        """
        _, options = self.bundle.with_defaults(options)
        stream = Stream(Job(caption=check_prompt(prompt), seed=check_seed(seed)), options)
        with self._changed:
            if self._closed:
                raise RuntimeError("the server is closed")
            self._waiting = deque(one for one in self._waiting if not one.job.cancelled)
            if len(self._waiting) >= self.most_waiting:
                raise Full
            self._waiting.append(stream)
            self._changed.notify_all()
        return stream

    def close(self, *, cancel: bool = False) -> None:
        """Take no more requests, and wait until all are drawn; or, with `cancel`, give all of them up."""
        with self._changed:
            self._closed = True
            unfinished = [*self._waiting, *self._drawing.values()] if cancel else []
            self._changed.notify_all()
        for stream in unfinished:
            stream.cancel()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; after an error, without drawing what is left."""
        self.close(cancel=error is not None)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                options = self._waiting[0].options
            try:
                self._draw(partial(self._take, options), options, self.rows)
            except Exception as error:
                self._draw_alone(options, error)

    def _take(self, options: BackendOptions, free: int) -> list[Job]:
        """The oldest requests, as long as they have these options. From now on they are being drawn."""
        taken: dict[Job, Stream] = {}
        with self._changed:
            while self._waiting and len(taken) < free:
                stream = self._waiting[0]
                if not stream.job.cancelled:
                    if stream.options != options:
                        break
                    taken[stream.job] = stream
                self._waiting.popleft()
            going_on = {job: stream for job, stream in self._drawing.items() if not job.cancelled}
            self._drawing = {**going_on, **taken}
        return [*taken]

    def _draw(self, more: Callable[[int], Sequence[Job]], options: BackendOptions, rows: int) -> None:
        """Draw the jobs that `more` returns, and tell their streams."""
        for job, picture, finished in self.bundle.backend(options.kind).draw_jobs(more, options, None, rows):
            with self._changed:
                stream = self._drawing.pop(job, None) if finished else self._drawing.get(job)
            if stream:  # else it was cancelled in the meantime
                stream._end(picture) if finished else stream._show(picture)

    def _draw_alone(self, options: BackendOptions, error: Exception) -> None:
        """Draw each request that `error` stopped alone, so that an error reaches only the request it is of."""
        if not self._drawing:  # the backend failed before it asked for any
            self._take(options, 1)
        stopped = [*self._drawing.values()]
        for stream in stopped:
            job = iter([stream.job])
            try:
                if len(stopped) == 1:
                    raise error
                if not stream.job.cancelled:
                    self._draw(lambda free, job=job: [*job], options, 1)  # type: ignore[misc]
            except Exception as its_own:
                stream._end(its_own)
            finally:
                with self._changed:
                    self._drawing.pop(stream.job, None)
