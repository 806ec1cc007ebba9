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
        self.module = module
        self.traces: dict[Hashable, Callable[..., Tensor]] = {}

    def __call__(self, path: Hashable, arguments: tuple[Any, ...]) -> Tensor:
        """Call the module on tensors and lists of tensors. Calls with equal `path` must take the same branches."""
        with self._one_at_a_time:
            if path not in self.traces:
                self.traces[path] = trace(self.module, arguments)
        return self.traces[path](*arguments)


def trace(module: nn.Module, arguments: tuple[Any, ...]) -> Callable[..., Tensor]:
    """Trace `module` on `arguments` into a graph, which takes arguments of other sizes too.

    The graph keeps the branches that this call takes. Torch deprecates `torch.jit.trace` in favour of its compiler,
    but that takes minutes and needs a C++ compiler on the machine. Returns `module` itself where torch has no
    `torch.jit.trace`, and for oneDNN's linear layers, which cannot be traced.
    """
    if not hasattr(torch.jit, "trace"):
        return module
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            copies = [[*map(torch.clone, part)] if isinstance(part, list) else part.clone() for part in arguments]
            return torch.jit.freeze(torch.jit.trace(module.eval(), tuple(copies), check_trace=False))  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        warnings.warn(f"a step cannot be traced here, so it is slower ({reason})", stacklevel=2)
        return module
