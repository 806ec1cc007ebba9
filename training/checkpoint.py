"""Checkpoints: all state of a run, as safetensors and JSON. A checkpoint is written completely or not at all."""

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

# Full state dicts by parameter name, so that plain, DDP and sharded models write the same file.
_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


class State(Protocol):
    """Something that a checkpoint saves: tensors by name, and values for JSON."""

    def gathered(self) -> tuple[Tensors, dict[str, Any]]:
        """The state. Every process must call it, because a sharded module is gathered from all of them.

        Only the first process is sure to get everything.
        """

    def load(self, tensors: Tensors, values: dict[str, Any]) -> None:
        """Loads, in place, what `gathered` returned."""


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


def save(folder: Path, step: int, states: Mapping[str, State], *, write: bool) -> None:
    """Saves `states` after `step` optimizer steps as `folder/step-<step>`, and deletes all but the last two
    checkpoints.

    Every process must call it. Only the one with `write` writes.
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
    """Loads the last checkpoint in `folder` into `states`. Returns its step, or 0 if there is none.

    Raises:
        BadInput: the checkpoint is damaged.
    """
    checkpoints = _all(folder)
    if not checkpoints:
        return 0
    last = checkpoints[-1]
    try:
        saved = read_json(last / "state.json")
        step = int(saved["step"])
        parts = {name: (load_file(last / f"{name}.safetensors"), saved["values"][name]) for name in states}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{last}: a damaged checkpoint ({error}); delete it to resume from the previous one") from None
    for name, state in states.items():
        state.load(*parts[name])
    return step


def last_step(folder: Path) -> int:
    """The step of the last checkpoint in `folder`, or 0 if there is none."""
    return max((int(path.name.removeprefix("step-")) for path in _all(folder)), default=0)


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name))
