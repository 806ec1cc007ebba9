"""Checkpoints: all state of a run, as safetensors and JSON. A checkpoint is written completely or not at all."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from training.errors import BadInput
from training.files import atomic, remove, write_json, write_tensors
from training.strict_json import read_json

Tensors = dict[str, Tensor]


class State(Protocol):
    """Something that a checkpoint saves: tensors by name, and values for JSON."""

    def gathered(self) -> tuple[Tensors, dict[str, Any]]:
        """The state. Every process must call it, because a sharded module is gathered from all of them.

        Only the first process is sure to get everything.
        """

    def load(self, tensors: Tensors, values: dict[str, Any]) -> None:
        """Loads, in place, what `gathered` returned."""


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
