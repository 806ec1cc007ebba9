"""Runs a module's operators without Python between them, from graphs that `torch.jit.trace` makes."""

import threading
import warnings
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn


class Traced:
    """Calls a module through graphs that are traced at the first call of each path. Threads may share it."""

    _one_at_a_time = threading.Lock()  # torch traces one module at a time in a process

    def __init__(self, module: nn.Module) -> None:
        self.module = _WithOpaqueInputs(module)
        self.traces: dict[Hashable, Callable[..., Tensor]] = {}

    def __call__(self, path: Hashable, arguments: tuple[Any, ...]) -> Tensor:
        """Call the module on tensors and lists of tensors. Calls with equal `path` must take the same branches."""
        arguments = (self.module.opaque, *arguments)
        with self._one_at_a_time:
            if path not in self.traces:
                self.traces[path] = trace(self.module, arguments)
        return self.traces[path](*arguments)


class _WithOpaqueInputs(nn.Module):
    """A module whose `opaque` tensors, of oneDNN's own layout, are an input: they cannot be constants of a graph."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._owners: list[Any] = [layer for layer in module.modules() if hasattr(layer, "opaque")]
        self.opaque = [*(layer.opaque for layer in self._owners), torch.empty(0)]  # a graph wants no empty list

    def forward(self, opaque: list[Tensor], *arguments: Any) -> Tensor:
        self._hold(opaque)
        try:
            return self.module(*arguments)
        finally:  # what was traced must not outlive the trace
            self._hold(self.opaque)

    def _hold(self, opaque: list[Tensor]) -> None:
        for layer, tensor in zip(self._owners, opaque, strict=False):
            layer.opaque = tensor


def trace(module: nn.Module, arguments: tuple[Any, ...]) -> Callable[..., Tensor]:
    """Trace `module` on `arguments` into a graph, which takes arguments of other sizes too.

    The graph keeps the branches that this call takes. Returns `module` itself where it cannot be traced.

    Torch deprecates `torch.jit.trace` in favour of its compiler. But that needs a C++ compiler on the machine, and a
    compiled step of the token model took a minute of compiling and then 28 ms on two AVX2 cores, where a traced one
    with packed weights took 9.
    """
    if not hasattr(torch.jit, "trace"):
        return module
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            copies = [[*map(_copy, part)] if isinstance(part, list) else _copy(part) for part in arguments]
            return torch.jit.freeze(torch.jit.trace(module.eval(), tuple(copies), check_trace=False))  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        warnings.warn(f"a step cannot be traced here, so it is slower ({reason})", stacklevel=2)
        return module


def _copy(tensor: Tensor) -> Tensor:
    """What tracing may write to; a tensor of oneDNN's layout is only read."""
    return tensor if tensor.is_mkldnn else tensor.clone()
