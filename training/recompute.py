"""Activation checkpointing (arXiv 1604.06174): training needs less memory, and time for a second forward pass."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def call(block: nn.Module, *arguments: Any, recompute: bool) -> Tensor:
    """Call a block. With `recompute`, the backward pass computes what is inside the block again.

    So only the tensors between blocks are kept. The result and its gradients are the same: dropout draws the same
    numbers again. Blocks must not change their buffers.
    """
    if recompute and torch.is_grad_enabled():
        return checkpoint(block, *arguments, use_reentrant=False)
    return block(*arguments)
