"""The run folder: resolved config, lock, log. One trainer at a time."""

import copy
import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from filelock import FileLock

from training.checkpoint import last_step
from training.config import to_dict
from training.errors import BadInput
from training.files import appending, claim, hold, naming, remove_leftovers, write_json, write_text
from training.options import TrainingConfig
from training.strict_json import parse_json, read_json

# A run may be continued with other values of these; any other change is another run. Of what it is trained on only the
# place may change: `data.json` and the ids in its model's config say what it is.
_MAY_CHANGE = {
    "out", "data", "tokenizer", "text", "steps", "dry_run", "precision", "log_every", "sample_every",
    "checkpoint_every", "workers", "cache", "verify", "trackers",
}  # fmt: skip


class RunFolder:
    """`out/` with `config.json`, `data.json`, `command.txt`, `log.jsonl`, `checkpoints/`, `samples/`, then `model/`."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.path = Path(config.out)
        self.checkpoints = self.path / "checkpoints"
        self.samples = self.path / "samples"
        self.model = self.path / "model"
        self.log_file = self.path / "log.jsonl"
        self.command = shlex.join(["accelerate", "launch", *sys.argv])
        self._data_file = self.path / "data.json"
        self._lock: FileLock | None = None

    def lock(self) -> None:
        """Creates or re-opens the folder and locks it until this process ends, however it ends; may be called again.

        Raises `BadInput` when another trainer lives in it, when it holds what is not of a run, or a run whose
        checkpoints are lost.
        """
        claim(self.path, "a run")
        self._lock = self._lock or hold(self.path)
        for folder in (self.path, *filter(Path.is_dir, self.path.iterdir())):
            remove_leftovers(folder)
        self._require_checkpoints()

    def require_data(self, data: dict[str, Any]) -> None:
        """Raises `BadInput` when there are checkpoints of a training on other data; `data` is what tells them apart."""
        if self._data_file.exists() and last_step(self.checkpoints):
            changed = sorted(_differences(read_json(self._data_file), data, {}))
            if changed:
                raise BadInput(
                    f"{self.path}: holds a run on other data ({', '.join(changed)}); "
                    "give it the data that it began with, or choose another --out"
                )

    def open(self, data: dict[str, Any]) -> None:
        """Locks the folder and writes down what the run is: its config, its data, its command.

        Raises `BadInput` when another trainer lives in it, or when it holds a run of another config, on other data or
        of more steps. A run that began before data were written down has its data written down now.
        """
        self.lock()
        file = self.path / "config.json"
        mine = json.loads(json.dumps(to_dict(self.config)))
        if file.exists():
            changed = sorted(_differences(read_json(file), mine, _defaults(self.config)))
            if changed:
                raise BadInput(
                    f"{self.path}: holds a run with another config ({', '.join(changed)}); "
                    "give the command that began it to resume, or choose another --out"
                )
        step = last_step(self.checkpoints)
        if step > self.config.steps:
            raise BadInput(f"{self.path}: is at step {step} already; give --steps {step} or more, or another --out")
        self.require_data(data)
        write_json(file, mine)
        write_json(self._data_file, data)
        write_text(self.path / "command.txt", self.command + "\n")

    def _require_checkpoints(self) -> None:
        """Raises `BadInput` when the run was further than where its checkpoints end by more than a kill explains.

        Who deletes checkpoints to save space would lose the log, and in the end the model, to a run begun anew.
        """
        step, file = last_step(self.checkpoints), self.path / "config.json"
        every = (read_json(file) if file.exists() else {}).get("checkpoint_every", self.config.checkpoint_every)
        reached = max((line["step"] for line in self._lines()), default=0)
        # of two checkpoints that are kept one may be damaged
        if reached >= step + 2 * every or (self.model.exists() and not step):
            there = "model" if self.model.exists() else f"log up to step {reached}"
            raise BadInput(
                f"{self.path}: has a {there}, but checkpoints only up to step {step}: "
                "going on would replace what came of the lost ones; choose another --out"
            )

    def rewind_log(self, step: int) -> None:
        """Drops the log lines after `step`, which a killed run wrote past its last checkpoint."""
        if self.log_file.exists():
            lines = self.log_file.read_text().splitlines()
            kept = [line for line in lines if (values := _parsed(line)) and values["step"] <= step]
            write_text(self.log_file, "".join(f"{line}\n" for line in kept))

    def flops_a_step(self) -> float | None:
        """As the log has it, so that a resumed run goes on with the same number."""
        counted = (line for line in self._lines() if "flops" in line)
        return next((line["flops"] / line["step"] for line in counted), None)

    def precision_before(self) -> str | None:
        """What the last step in the log was computed in."""
        return next((line["precision"] for line in reversed(self._lines()) if "precision" in line), None)

    def _lines(self) -> list[dict[str, Any]]:
        """Of the log, but for one cut short by a kill."""
        lines = self.log_file.read_text().splitlines() if self.log_file.exists() else []
        return [values for line in lines if (values := _parsed(line))]

    def log(self, values: dict[str, Any]) -> None:
        """Appends one JSON line."""
        with naming(self.log_file), appending(self.log_file) as file:
            file.write((json.dumps(values) + "\n").encode())


def _parsed(line: str) -> dict[str, Any] | None:
    """A line of the log; None where a kill cut it short."""
    try:
        values = parse_json(line, "log", finite=False)
    except BadInput:
        return None
    return values if isinstance(values, dict) and isinstance(values.get("step"), int) else None


def _defaults(config: TrainingConfig) -> dict[str, Any]:
    """The config with all that has a default at it: what a run that began before an option was there did without it."""
    bare = copy.copy(config)
    for field in dataclasses.fields(config):
        if field.default is not dataclasses.MISSING:
            setattr(bare, field.name, field.default)
        elif field.default_factory is not dataclasses.MISSING:
            setattr(bare, field.name, field.default_factory())
    return json.loads(json.dumps(to_dict(bare)))


def _differences(old: dict[str, Any], new: dict[str, Any], defaults: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in old.keys() | new.keys():
        default = defaults.get(key)
        a, b = old.get(key, default), new.get(key)
        if prefix + key in _MAY_CHANGE or a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, default if isinstance(default, dict) else {}, f"{prefix}{key}.")
        else:
            found.append(f"{prefix}{key}: {a!r} there, {b!r} here")
    return found
