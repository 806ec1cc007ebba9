"""Which pictures a step sees: a function of (seed, step), so that resuming needs no saved state."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


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
