"""Checkpoints: the states of a run, written whole or not at all, as safetensors and JSON."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from training.errors import BadInput
from training.files import atomic, remove, write_json, write_tensors
from training.strict_json import read_json

Tensors = dict[str, Tensor]

# Full state dicts by parameter name: the same file whether the model is plain, DDP or sharded.
_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


class State(Protocol):
    """What a run must find again to go on: tensors by name, and values for JSON."""

    def gathered(self) -> tuple[Tensors, dict[str, Any]]:
        """Every process must call it (a sharded module is gathered); of several the first has it all."""

    def load(self, tensors: Tensors, values: dict[str, Any]) -> None:
        """Takes over in place what was `gathered`."""


class ModuleState:
    """Parameters and buffers of a module, prepared or not."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def gathered(self) -> tuple[Tensors, dict[str, Any]]:
        """As `State` says."""
        return cast(Tensors, get_model_state_dict(self._module, options=_FULL)), {}

    def load(self, tensors: Tensors, values: dict[str, Any]) -> None:
        """As `State` says."""
        set_model_state_dict(self._module, {**tensors}, options=_FULL)


class OptimizerState:
    """What an optimizer keeps of each parameter of a module, as `parameter/what`; and its groups."""

    def __init__(self, module: nn.Module, optimizer: Optimizer) -> None:
        self._module, self._optimizer = module, optimizer

    def gathered(self) -> tuple[Tensors, dict[str, Any]]:
        """As `State` says."""
        if not self._optimizer.state:  # not stepped so far: `torch` would take a step to have something to show
            return {}, {}
        whole = get_optimizer_state_dict(self._module, self._optimizer, options=_FULL)
        state = cast(dict[str, Tensors], whole.get("state", {}))  # of several processes the others have none
        tensors = {f"{name}/{what}": value for name, kept in state.items() for what, value in kept.items()}
        return tensors, {"param_groups": whole.get("param_groups")}

    def load(self, tensors: Tensors, values: dict[str, Any]) -> None:
        """As `State` says."""
        state: dict[str, Any] = {}
        for key, value in tensors.items():
            name, what = key.rsplit("/", 1)
            state.setdefault(name, {})[what] = value
        if state:
            set_optimizer_state_dict(self._module, self._optimizer, {"state": state, **values}, options=_FULL)


def save(folder: Path, step: int, states: Mapping[str, State], *, write: bool) -> None:
    """Saves `states` after `step` optimizer steps as `folder/step-<step>` and drops all but the last two.

    Every process must call it; the one with `write` writes.
    """
    parts = {name: state.gathered() for name, state in states.items()}
    if not write:
        return
    with atomic(folder / f"step-{step:08d}") as temporary:
        temporary.mkdir()
        for name, (tensors, _) in parts.items():
            write_tensors(temporary / f"{name}.safetensors", tensors)
        values = {name: values for name, (_, values) in parts.items()}
        write_json(temporary / "state.json", {"step": step, "values": values})
    for old in _all(folder)[:-2]:
        remove(old)


def restore(folder: Path, states: Mapping[str, State]) -> int:
    """Loads the last checkpoint of `folder` into `states`; returns its step, or 0 where there is none."""
    checkpoints = _all(folder)
    if not checkpoints:
        return 0
    last = checkpoints[-1]
    try:
        saved = read_json(last / "state.json")
        step = int(saved["step"])
        parts = {name: (load_file(last / f"{name}.safetensors"), saved["values"][name]) for name in states}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{last}: a damaged checkpoint ({error}); delete it to resume from the one before") from None
    for name, state in states.items():
        state.load(*parts[name])
    return step


def last_step(folder: Path) -> int:
    """The step of the last checkpoint of `folder`, or 0 where there is none."""
    return max((int(path.name.removeprefix("step-")) for path in _all(folder)), default=0)


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name))
