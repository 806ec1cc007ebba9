"""Moving average of a model's weights, whose length grows with the run (T. Karras et al., arXiv 2312.02696, 3.1).

An average of fixed length is too short for a long run and too long for a short one.
"""

import copy
import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def averaged_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` to hold the average, in eval mode and without gradients."""
    return copy.deepcopy(model).eval().requires_grad_(False)


@torch.no_grad()
def update(average: nn.Module, model: nn.Module, step: int, length: float) -> None:
    """Moves the weights of `average` towards those of `model`, in place. Call it after optimizer step `step` (from 0).

    `length` is the standard deviation of the averaged steps as a share of all steps so far; 0 keeps the last weights.

    The weights of a sharded model are gathered: the average is whole in every process, to be evaluated and exported by
    one of them.

    Buffers are copied. A codebook is a moving average already, and the mean of unit vectors is no unit vector.
    """
    decay = (1 - 1 / (step + 1)) ** (_power(length) + 1) if length else 0.0
    torch._foreach_lerp_(list(average.parameters()), [_whole(p.detach()) for p in model.parameters()], 1 - decay)
    for mine, theirs in zip(average.buffers(), model.buffers(), strict=True):
        mine.copy_(theirs)


@functools.cache
def _power(length: float) -> float:
    """The power gamma: the weights after step t have a share of about t^gamma in the average (algorithm 2)."""
    inverse = length**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def _whole(tensor: Any) -> Tensor:
    """A tensor that may be sharded, gathered from all processes."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
