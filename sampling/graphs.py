"""Steps of the sampler as CUDA graphs: recorded once, then replayed without Python or launches in between.

A graph reads and writes fixed memory and has fixed shapes. So batches are padded to one of a few sizes, and attention
reads the cache up to one of a few lengths. A graph needs no compiler and is ready after a few steps.
"""

import threading
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

LARGEST = 64
"""Batches up to this size are padded to a power of two, larger ones to a multiple of it."""
POSITIONS = 128
"""The cache is read up to a multiple of this many positions. On average an eighth more than needed is read of 1,024."""

_CAPTURE = threading.Lock()
"""Only one thread may record at a time."""


def padded_batch(pictures: int) -> int:
    """The size of the batch that `pictures` are drawn in."""
    return -(-pictures // LARGEST) * LARGEST if pictures > LARGEST else 1 << (pictures - 1).bit_length()


def padded(rows: Tensor, count: int) -> Tensor:
    """`rows` (B, ...) with the last one repeated, to `count` rows."""
    return rows[torch.arange(count, device=rows.device).clamp(max=len(rows) - 1)]


def padded_length(position: int, most: int) -> int:
    """How many positions of the cache are read at `position`, of `most`."""
    return min(-(-(position + 1) // POSITIONS) * POSITIONS, most)


class Graphs:
    """The graphs of one set of buffers, by a key. They share memory for temporary tensors, so one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graphs: dict[Hashable, Callable[[], None]] = {}

    def run(self, key: Hashable, step: Callable[[], None], changed: Sequence[Tensor]) -> None:
        """Replay the graph with this key; record it first if it is new.

        Args:
            key: all that the step depends on, apart from the values of tensors.
            step: computes with tensors that stay where they are. It is called only to be recorded.
            changed: the tensors that `step` changes and whose values matter. Recording leaves them as they were.
        """
        if key not in self._graphs:
            self._graphs[key] = self._recorded(step, changed)
        self._graphs[key]()

    def _recorded(self, step: Callable[[], None], changed: Sequence[Tensor]) -> Callable[[], None]:
        """Record `step` as a CUDA graph; return what replays it, on whatever GPU the caller's thread is.

        `step` runs three times before, because libraries allocate memory in their first calls.
        """
        before = [tensor.clone() for tensor in changed]
        graph = torch.cuda.CUDAGraph()
        with _CAPTURE, torch.cuda.device(self._device):
            stream, pool = self._where
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    step()
            torch.cuda.current_stream().wait_stream(stream)
            for tensor, values in zip(changed, before, strict=True):
                tensor.copy_(values)
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                step()
        return graph.replay

    @cached_property
    def _where(self) -> tuple[torch.cuda.Stream, Any]:
        """The stream to record on, and the memory of temporary tensors. To share that, a stream must be shared too."""
        return torch.cuda.Stream(), torch.cuda.graph_pool_handle()  # type: ignore[no-untyped-call]
