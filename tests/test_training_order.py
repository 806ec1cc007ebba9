"""The order of the data is a function of (seed, step)."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from training.batches import Batch, MicroBatches, batch_indices
from training.options import TrainingConfig


def stream(steps: int, *, count: int, batch_size: int, seed: int = 0) -> list[int]:
    return [int(i) for step in range(steps) for i in batch_indices(step, count=count, batch_size=batch_size, seed=seed)]


@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (7, 7), (12, 5), (3, 8), (1, 4)])
def test_each_epoch_is_a_permutation_and_batches_cross_epochs(count: int, batch_size: int) -> None:
    steps = 6 * count
    order = np.array(stream(steps, count=count, batch_size=batch_size))
    assert len(order) == steps * batch_size
    epochs = order.reshape(-1, count)
    assert (np.sort(epochs, axis=1) == np.arange(count)).all()


def test_epochs_and_seeds_differ() -> None:
    first, second = np.array(stream(2, count=50, batch_size=50)).reshape(2, 50)
    assert (first != second).any()
    assert stream(2, count=50, batch_size=50, seed=1) != [*first, *second]
    assert list(first) != sorted(first)


def test_a_step_does_not_depend_on_earlier_ones() -> None:
    forwards = [batch_indices(step, count=10, batch_size=4, seed=3).tolist() for step in range(20)]
    backwards = [batch_indices(step, count=10, batch_size=4, seed=3).tolist() for step in reversed(range(20))]
    assert forwards == backwards[::-1]


def test_the_order_never_changes_between_versions() -> None:
    """An old run that resumes with this code must see the same pictures."""
    assert stream(3, count=10, batch_size=4, seed=0) == [4, 6, 2, 7, 3, 5, 9, 0, 8, 1, 9, 1]


def micro_batches(processes: int, accumulation: int, step: int) -> list[Batch]:
    """What all processes see in a step: by rank, then by forward pass."""

    class Numbers:
        def __len__(self) -> int:
            return 11

        def __call__(self, indices: np.ndarray, generator: torch.Generator) -> Batch:
            return {"indices": torch.from_numpy(indices), "noise": torch.rand(len(indices), generator=generator)}

    config = TrainingConfig(data="", out="", steps=9, seed=5, batch_size=8, accumulation=accumulation)
    return [
        MicroBatches(SimpleNamespace(num_processes=processes, process_index=rank), config, Numbers())[
            step * accumulation + micro
        ]
        for rank in range(processes)
        for micro in range(accumulation)
    ]


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (1, 4), (2, 1), (2, 2), (4, 2), (8, 1)])
def test_processes_and_accumulation_share_one_batch(processes: int, accumulation: int) -> None:
    for step in (0, 1, 7):
        parts = micro_batches(processes, accumulation, step)
        assert len({len(part["indices"]) for part in parts}) == 1
        together = torch.cat([part["indices"] for part in parts])
        assert together.tolist() == batch_indices(step, count=11, batch_size=8, seed=5).tolist()


def test_each_forward_pass_has_its_own_noise() -> None:
    noise = torch.cat([part["noise"] for step in range(4) for part in micro_batches(2, 2, step)])
    assert len(noise.unique()) == len(noise) == 32
