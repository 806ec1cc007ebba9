"""The Muon optimizer (K. Jordan et al., 2024): orthogonalised momentum, for the hidden matrices of a network.

A convolution counts as the matrix (channels out, channels in x height x width) that it multiplies each patch by.

All singular values of an update are about equal, so rare examples move the weights as much as frequent ones
(arXiv 2509.26030). That suits a corpus with few pictures of each of many concepts. `torch` has a Muon too, but it
computes only in bfloat16, which takes a hundred times as long on many processors.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.precision import uses_bf16

# The author's coefficients of the quintic iteration. It is steepest at 0. Singular values do not converge to 1, but
# stay within 0.7 to 1.2.
_A, _B, _C = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.AdamW):
    """Muon for the parameter groups with `muon=True`, AdamW for the others. Each group has its own `lr`."""

    def __init__(self, groups: Iterable[dict[str, Any]], *, momentum: float = 0.95, **adamw: Any) -> None:
        super().__init__([{"muon": False, **group} for group in groups], **adamw)
        self.momentum = momentum

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Skips AdamW's version, which expects AdamW's state for every parameter."""
        torch.optim.Optimizer.__setstate__(self, state)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Steps every parameter group: first those of AdamW, then those of Muon."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["muon"]]
        try:
            super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["muon"]:
                weights = [p for p in group["params"] if p.grad is not None]
                self._muon_step(weights, group["lr"], group["weight_decay"])

    def _muon_step(self, weights: list[nn.Parameter], rate: float, decay: float) -> None:
        updates = []
        for weight in weights:
            state = self.state[weight]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(weight)
            momentum = state["momentum"]
            momentum.mul_(self.momentum).add_(weight.grad)
            updates.append((weight.grad + self.momentum * momentum).flatten(1))  # Nesterov momentum
        for weight, update in zip(weights, orthogonal(updates), strict=True):
            rows, columns = update.shape
            step = update.reshape(weight.shape)
            weight.mul_(1 - rate * decay).add_(step, alpha=-rate * max(1.0, rows / columns) ** 0.5)


def orthogonal(matrices: Sequence[Tensor], steps: int = 5) -> list[Tensor]:
    """Approximates the nearest matrices whose singular values are all 1, by a Newton-Schulz iteration. 0 stays 0.

    Args:
        matrices: (n, m) each, of any sizes. Matrices of one size are iterated as one batch, because a single one is too
            small to keep a processor busy.
        steps: iterations.

    Returns:
        Matrices of the same shapes and dtypes.
    """
    by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, matrix in enumerate(matrices):
        by_size[min(matrix.shape), max(matrix.shape)].append(i)
    found = list(matrices)
    for indices in by_size.values():
        wide = torch.stack([_transposed_if_tall(matrices[i], matrices[i].shape) for i in indices])
        for i, square in zip(indices, _newton_schulz(wide.float(), steps), strict=True):
            found[i] = _transposed_if_tall(square, matrices[i].shape).to(matrices[i].dtype)
    return found


def _transposed_if_tall(matrix: Tensor, shape: torch.Size) -> Tensor:
    """The transpose if `shape` has more rows than columns, else the matrix."""
    return matrix.T if shape[0] > shape[1] else matrix


def _newton_schulz(x: Tensor, steps: int) -> Tensor:
    """(B, n, m) float32 with n <= m -> about orthogonal (B, n, m), in bfloat16 where `uses_bf16`."""
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    x = x.to(torch.bfloat16) if uses_bf16(x.device.type) else x
    for _ in range(steps):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=_B, alpha=_C), x, beta=_A)
    return x
