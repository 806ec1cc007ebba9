"""Muon (K. Jordan et al., 2024): momentum made orthogonal, for the matrices inside a transformer's blocks.

A matrix's update has all its singular values about equal, so that what is rarely seen moves the weights as much as what
is always there ("tail-end associative memory", arXiv 2509.26030): few pictures of many things is just that case. The
Muon of `torch` computes in bfloat16 alone, in which many processors take a hundred times as long.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from training.precision import has_bf16

# Coefficients of the quintic iteration by its author: not a convergent one, but steepest at 0, and within 0.7 to 1.2.
_A, _B, _C = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.AdamW):
    """Muon for the parameter groups with `muon` set, AdamW for the others. A group's `lr` is its rule's own."""

    def __init__(self, groups: Iterable[dict[str, Any]], *, momentum: float = 0.95, **adamw: Any) -> None:
        super().__init__([{"muon": False, **group} for group in groups], **adamw)
        self.momentum = momentum

    def __setstate__(self, state: dict[str, Any]) -> None:
        """AdamW's own looks for its state in every parameter."""
        torch.optim.Optimizer.__setstate__(self, state)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of each group by its rule."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["muon"]]
        try:
            super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["muon"]:
                for weight in group["params"]:
                    if weight.grad is not None:
                        self._turn(weight, group["lr"], group["weight_decay"])

    def _turn(self, weight: Tensor, rate: float, decay: float) -> None:
        momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
        momentum.mul_(self.momentum).add_(weight.grad)
        update = orthogonal(weight.grad + self.momentum * momentum)  # Nesterov's
        rows, columns = weight.shape
        weight.mul_(1 - rate * decay).add_(update, alpha=-rate * max(1.0, rows / columns) ** 0.5)


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """About the nearest matrix (n, m) whose singular values are 1, by a Newton-Schulz iteration; 0 stays 0."""
    x = matrix.float()
    x = x / (x.norm() + 1e-7)
    x = x.to(torch.bfloat16) if has_bf16(matrix.device.type) else x
    x = x.T if matrix.shape[0] > matrix.shape[1] else x
    for _ in range(steps):
        square = x @ x.T
        x = _A * x + (_B * square + _C * square @ square) @ x
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).to(matrix.dtype)
