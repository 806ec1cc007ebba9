"""Exponential moving average of a model's weights."""

import copy

import torch
from torch import nn


def averaged_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` to hold the average: in eval mode, without gradients."""
    return copy.deepcopy(model).eval().requires_grad_(False)


@torch.no_grad()
def update(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Moves the weights of `average` towards `model`'s after optimizer step `step` (from 0), in place.

    Buffers are copied: a codebook is a moving average already, and a mean of unit vectors is not one. The decay is
    warmed up as min(decay, (1 + step) / (10 + step)), so that the random start is soon forgotten.
    """
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in model.parameters()], 1 - decay)
    for mine, theirs in zip(average.buffers(), model.buffers(), strict=True):
        mine.copy_(theirs)
