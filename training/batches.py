"""Which examples a step sees, and what prepares them: functions of (seed, step), so that nothing of it is saved."""

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
    """The `batch_size` indices into `count` examples that step `step` trains on, over all processes.

    The examples are one endless stream, a fresh permutation an epoch; a step takes the next `batch_size` of it.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // count
    pieces = [_permutation(int(e), count, seed)[positions[epochs == e] % count] for e in np.unique(epochs)]
    return np.concatenate(pieces)


@lru_cache(maxsize=2)
def _permutation(epoch: int, count: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


class Data(Protocol):
    """What a model is trained on. It can be pickled, for the workers of a loader."""

    origin: dict[str, Any]
    """What tells it from other data: only a run on the same is resumed."""

    def __len__(self) -> int:
        """The number of training examples."""

    def __call__(self, indices: NDArray[np.int64], generator: torch.Generator) -> Batch:
        """The tensors of one forward pass over the examples `indices`; the generator is its only randomness."""


class MicroBatches(Dataset[Batch]):
    """The batches of one process, indexed by the number of the forward pass since the start of the run."""

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
    """The batches of this process from step `start` on, on its device."""
    loader = DataLoader(
        MicroBatches(accelerator, config, data),
        batch_size=None,
        sampler=range(start * config.accumulation, config.steps * config.accumulation),
        num_workers=config.workers,
        pin_memory=accelerator.device.type == "cuda",
        worker_init_fn=_leave_signals_to_the_trainer,
    )
    batches = iter(loader)
    try:
        yield (
            {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
            for batch in batches
        )
    finally:
        if config.workers:  # a traceback keeps them, and Python would wait for ever for them to heed its SIGTERM
            batches._shutdown_workers()  # type: ignore[attr-defined]


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Ctrl-C and a SIGTERM to all of a job reach the workers too, but the trainer needs them to finish its step."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def batch_id(step: int, config: TrainingConfig, data: Data) -> str:
    """A checksum of the indices of a step's batch: two runs that log the same one saw the same examples."""
    indices = batch_indices(step, count=len(data), batch_size=config.batch_size, seed=config.seed)
    return f"{zlib.crc32(indices.tobytes()):08x}"
