"""Linear layers laid out for a CPU. Decoding multiplies a few rows by large matrices, and a matrix product that may
first arrange a matrix as the processor likes it does so up to three times as fast."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


class PackedLinear(nn.Module):
    """A linear layer whose weight oneDNN has arranged, in float32 or bfloat16. Takes and returns float32."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype, rows: int) -> None:
        """`rows`: how many the input will mostly have; any number is right, this one is fastest."""
        super().__init__()
        self.dtype, self.in_features, self.out_features = dtype, linear.in_features, linear.out_features
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)
        # A plain attribute: an opaque tensor cannot be saved or moved, and must not be.
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(dtype), rows)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        made = torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), self.packed, self.bias, "none", [], "")
        return made.to(x.dtype)


def can_pack() -> bool:
    """Whether this build of torch and this processor can."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def packed(module: Module, dtype: torch.dtype, rows: int) -> Module:
    """`module` with every linear layer packed. Everything else is shared with it, and it is left as it was."""
    twin = copy.copy(module)
    twin._modules = {
        name: PackedLinear(child, dtype, rows) if isinstance(child, nn.Linear) else child and packed(child, dtype, rows)
        for name, child in module._modules.items()
    }
    return twin
