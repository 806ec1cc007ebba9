"""The state of a module and of an optimizer, for checkpoints."""

from typing import Any, cast

from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from training.checkpoint import Tensors

# Full state dicts by parameter name, so that plain, DDP and sharded models write the same file.
_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


class ModuleState:
    """Parameters and buffers of a module, before or after `Accelerator.prepare`."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def gathered(self) -> tuple[Tensors, dict[str, Any]]:
        """See `State`."""
        return cast(Tensors, get_model_state_dict(self._module, options=_FULL)), {}

    def load(self, tensors: Tensors, values: dict[str, Any]) -> None:
        """See `State`."""
        set_model_state_dict(self._module, {**tensors}, options=_FULL)


class OptimizerState:
    """An optimizer's state: tensors under `PARAMETER/NAME`, and its parameter groups."""

    def __init__(self, module: nn.Module, optimizer: Optimizer) -> None:
        self._module, self._optimizer = module, optimizer

    def gathered(self) -> tuple[Tensors, dict[str, Any]]:
        """See `State`."""
        if not self._optimizer.state:  # before its first step: `torch` would take a step here to initialise the state
            return {}, {}
        whole = get_optimizer_state_dict(self._module, self._optimizer, options=_FULL)
        state = cast(dict[str, Tensors], whole.get("state", {}))  # only the first process has it
        tensors = {f"{name}/{what}": value for name, kept in state.items() for what, value in kept.items()}
        return tensors, {"param_groups": whole.get("param_groups")}

    def load(self, tensors: Tensors, values: dict[str, Any]) -> None:
        """See `State`."""
        state: dict[str, Any] = {}
        for key, value in tensors.items():
            name, what = key.rsplit("/", 1)
            state.setdefault(name, {})[what] = value
        if state:
            set_optimizer_state_dict(self._module, self._optimizer, {"state": state, **values}, options=_FULL)
