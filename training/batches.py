"""Which examples a step sees, and how they are loaded.

Both are functions of (seed, step), so checkpoints need not save any state of the data.
"""

import contextlib
import signal
import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.options import TrainingConfig

Batch = dict[str, Tensor]


def batch_indices(step: int, *, count: int, batch_size: int, seed: int) -> NDArray[np.int64]:
    """The examples of one step, over all processes: int64 (batch_size,), each from 0 to `count` - 1.

    The examples form an endless stream, with a new permutation for each epoch. A step takes the next `batch_size`.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // count
    pieces = [_permutation(int(e), count, seed)[positions[epochs == e] % count] for e in np.unique(epochs)]
    return np.concatenate(pieces)


@lru_cache(maxsize=2)
def _permutation(epoch: int, count: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


class Data(Protocol):
    """Training data. It must be picklable, for the workers of a `DataLoader`."""

    origin: dict[str, Any]
    """Identifies the data, in JSON values. A run resumes only on data with the same origin."""

    def __len__(self) -> int:
        """The number of training examples."""

    def __call__(self, indices: NDArray[np.int64], generator: torch.Generator) -> Batch:
        """The tensors of one forward pass over the examples `indices`. All randomness must come from `generator`."""


class MicroBatches(Dataset[Batch]):
    """The batches of one process, indexed by its forward passes since the start of the run."""

    def __init__(self, accelerator: Accelerator, config: TrainingConfig, data: Data) -> None:
        self._parts = accelerator.num_processes * config.accumulation
        self._rank, self._accumulation = accelerator.process_index, config.accumulation
        self._batch_size, self._seed, self._data = config.batch_size, config.seed, data

    def __getitem__(self, index: int) -> Batch:
        step, micro = divmod(index, self._accumulation)
        indices = batch_indices(step, count=len(self._data), batch_size=self._batch_size, seed=self._seed)
        part = self._rank * self._accumulation + micro
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + step) * self._parts + part)
        return self._data(np.split(indices, self._parts)[part], generator)


@contextlib.contextmanager
def batches_from(start: int, accelerator: Accelerator, config: TrainingConfig, data: Data) -> Iterator[Iterator[Batch]]:
    """Opens an iterator over the batches of this process, from step `start` on, on its device."""
    pinned = accelerator.device.type == "cuda"
    loader = DataLoader(
        MicroBatches(accelerator, config, data),
        batch_size=None,
        sampler=range(start * config.accumulation, config.steps * config.accumulation),
        num_workers=config.workers,
        pin_memory=pinned,
        worker_init_fn=_leave_signals_to_the_trainer,
    )
    batches = iter(loader)
    try:
        yield (
            {name: tensor.to(accelerator.device, non_blocking=pinned) for name, tensor in batch.items()}
            for batch in batches
        )
    finally:
        if config.workers:  # a traceback keeps workers alive; they ignore SIGTERM, so Python would wait for ever
            batches._shutdown_workers()  # type: ignore[attr-defined]


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Makes a worker ignore Ctrl-C and SIGTERM: the trainer still needs its batches to finish the current step."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def batch_id(step: int, config: TrainingConfig, data: Data) -> str:
    """A checksum of the indices in a step's batch. Runs that log the same checksum saw the same examples."""
    indices = batch_indices(step, count=len(data), batch_size=config.batch_size, seed=config.seed)
    return f"{zlib.crc32(indices.tobytes()):08x}"
