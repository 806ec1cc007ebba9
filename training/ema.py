"""Exponential moving average of a model's weights."""

import copy
from typing import Any

import torch
from torch import Tensor, nn


def averaged_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` to hold the average, in eval mode and without gradients."""
    return copy.deepcopy(model).eval().requires_grad_(False)


@torch.no_grad()
def update(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Moves the weights of `average` towards those of `model`, in place. Call it after optimizer step `step` (from 0).

    The weights of a sharded model are gathered: the average is whole in every process, to be evaluated and exported by
    one of them.

    Buffers are copied. A codebook is a moving average already, and the mean of unit vectors is no unit vector. The
    decay is min(decay, (1 + step) / (10 + step)), so the random initial weights are soon forgotten.
    """
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), [_whole(p.detach()) for p in model.parameters()], 1 - decay)
    for mine, theirs in zip(average.buffers(), model.buffers(), strict=True):
        mine.copy_(theirs)


def _whole(tensor: Any) -> Tensor:
    """A tensor that may be sharded, gathered from all processes."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
