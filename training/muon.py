"""Muon (K. Jordan et al., 2024): momentum made orthogonal, for the matrices inside a transformer's blocks.

A matrix's update has all its singular values about equal, so that what is rarely seen moves the weights as much as what
is always there ("tail-end associative memory", arXiv 2509.26030): few pictures of many things is just that case. The
Muon of `torch` computes in bfloat16 alone, in which many processors take a hundred times as long.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

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
                self._turn([p for p in group["params"] if p.grad is not None], group["lr"], group["weight_decay"])

    def _turn(self, weights: list[nn.Parameter], rate: float, decay: float) -> None:
        updates = []
        for weight in weights:
            momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
            momentum.mul_(self.momentum).add_(weight.grad)
            updates.append(weight.grad + self.momentum * momentum)  # Nesterov's
        for weight, update in zip(weights, orthogonal(updates), strict=True):
            rows, columns = weight.shape
            weight.mul_(1 - rate * decay).add_(update, alpha=-rate * max(1.0, rows / columns) ** 0.5)


def orthogonal(matrices: Sequence[Tensor], steps: int = 5) -> list[Tensor]:
    """About the nearest matrices whose singular values are 1, by a Newton-Schulz iteration; 0 stays 0.

    Args:
        matrices: (n, m) each, of any sizes. Those of one size go through the iteration together: a model has many, each
            too small to keep a processor busy.
    """
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, matrix in enumerate(matrices):
        alike[min(matrix.shape), max(matrix.shape)].append(i)
    found = list(matrices)
    for indices in alike.values():
        wide = torch.stack([_widened(matrices[i], matrices[i].shape) for i in indices])
        for i, turned in zip(indices, _iterated(wide.float(), steps), strict=True):
            found[i] = _widened(turned, matrices[i].shape).to(matrices[i].dtype)
    return found


def _widened(matrix: Tensor, shape: torch.Size) -> Tensor:
    """Turned over where `shape` has more rows than columns."""
    return matrix.T if shape[0] > shape[1] else matrix


def _iterated(x: Tensor, steps: int) -> Tensor:
    """(B, n, m) float32 with n up to m -> their orthogonal factors, in the dtype computed in."""
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    x = x.to(torch.bfloat16) if has_bf16(x.device.type) else x
    for _ in range(steps):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=_B, alpha=_C), x, beta=_A)
    return x
