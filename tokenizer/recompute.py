"""Activation checkpointing: it needs less memory in training, and time for a second forward pass."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def through(blocks: Iterable[nn.Module], x: Tensor, *more: Tensor | None, recompute: bool) -> Tensor:
    """Pass `x` through the blocks in turn, which may take `more` beside it.

    With `recompute`, the backward pass computes what is inside a block again, so that only the tensors between blocks
    are kept. The result and its gradients are the same. Blocks must not draw random numbers or change their buffers.
    """
    for block in blocks:
        if recompute and torch.is_grad_enabled():
            x = checkpoint(block, x, *more, use_reentrant=False, preserve_rng_state=False)
        else:
            x = block(x, *more)
    return x
