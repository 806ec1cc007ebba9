"""Checkpoints: model, averaged model and optimizer, written whole or not at all, as safetensors."""

import re
from pathlib import Path
from typing import Any, cast

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

State = dict[str, dict[str, Tensor]]
"""Optimizer state by parameter name."""

# Full state dicts by parameter name: the same file whether the model is plain, DDP or sharded.
_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


def save(folder: Path, step: int, model: nn.Module, average: nn.Module, optimizer: Optimizer, *, write: bool) -> None:
    """Saves the state after `step` optimizer steps as `folder/step-<step>` and drops all but the last two.

    Every process must call it (a sharded model is gathered); the one with `write` writes.
    """
    optimizer_state = get_optimizer_state_dict(model, optimizer, options=_FULL)
    parts: dict[str, Any] = {
        "model": get_model_state_dict(model, options=_FULL), "average": get_model_state_dict(average, options=_FULL),
    }  # fmt: skip
    if not write:  # of several processes the others have gathered nothing
        return
    parts["optimizer"] = _flat(cast(State, optimizer_state["state"]))
    with atomic(folder / f"step-{step:08d}") as temporary:
        temporary.mkdir()
        for name, part in parts.items():
            write_tensors(temporary / f"{name}.safetensors", part)
        write_json(temporary / "state.json", {"step": step, "param_groups": optimizer_state["param_groups"]})
    for old in _all(folder)[:-2]:
        remove(old)


def restore(folder: Path, model: nn.Module, average: nn.Module, optimizer: Optimizer) -> int:
    """Loads the last checkpoint of `folder` in place; returns its step, or 0 where there is none."""
    checkpoints = _all(folder)
    if not checkpoints:
        return 0
    last = checkpoints[-1]
    try:
        parts: dict[str, Any] = {
            name: load_file(last / f"{name}.safetensors") for name in ("model", "average", "optimizer")
        }
        state = read_json(last / "state.json")
        step, groups = int(state["step"]), state["param_groups"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{last}: a damaged checkpoint ({error}); delete it to resume from the one before") from None
    set_model_state_dict(model, parts["model"], options=_FULL)
    set_model_state_dict(average, parts["average"], options=_FULL)
    optimizer_state = {"state": _nested(parts["optimizer"]), "param_groups": groups}
    set_optimizer_state_dict(model, optimizer, optimizer_state, options=_FULL)
    return step


def last_step(folder: Path) -> int:
    """The step of the last checkpoint of `folder`, or 0 where there is none."""
    return max((int(path.name.removeprefix("step-")) for path in _all(folder)), default=0)


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name))


def _flat(state: State) -> dict[str, Tensor]:
    return {f"{parameter}/{name}": value for parameter, values in state.items() for name, value in values.items()}


def _nested(tensors: dict[str, Tensor]) -> State:
    state: State = {}
    for key, value in tensors.items():
        parameter, name = key.rsplit("/", 1)
        state.setdefault(parameter, {})[name] = value
    return state
