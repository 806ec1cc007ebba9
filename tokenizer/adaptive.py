"""The adaptive weight of a loss: its gradient becomes as large as that of another loss (VQGAN, arXiv 2012.09841)."""

import torch
import torch._functorch.config
from accelerate.utils import reduce
from torch import Tensor, nn


def last_layer(module: nn.Module) -> nn.Parameter:
    """The last tensor of two or more dimensions among the module's parameters."""
    *_, last = (p for p in module.parameters() if p.ndim >= 2)
    return last


def keep_graphs() -> None:
    """Prepare compiled models for `adaptive_weight`, which passes backward through their graphs more than once.

    Call it before the first forward pass. By default, a compiled backward pass reuses the memory of its inputs, and
    refuses to be run twice.
    """
    torch._functorch.config.donated_buffer = False


def adaptive_weight(reference: Tensor, loss: Tensor, layer: nn.Parameter) -> Tensor:
    """The ratio of two gradients of `layer`: the norm of the reference's over the norm of the loss's, at most 10,000.

    Takes two scalars and returns one without a gradient. If their model may be compiled, call `keep_graphs` before.
    Gradients are first averaged over processes. So all processes
    get the same, and the same as one process does with the whole batch.
    """
    gradients = [torch.autograd.grad(one, layer, retain_graph=True)[0] for one in (reference, loss)]
    ours, theirs = reduce(torch.stack(gradients).float(), "mean").flatten(1).norm(dim=1)
    return (ours / (theirs + 1e-6)).clamp(max=1e4)  # eq. 7
