"""The run folder: the config, the log and the lock of a run. One trainer at a time may use it."""

import copy
import dataclasses
import hashlib
import json
import shlex
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from training.checkpoint import last_step
from training.config import to_dict
from training.errors import BadInput
from training.files import appending, claim, error_names, hold, remove_leftovers, write_json, write_text
from training.hub import fetched, identity
from training.options import TrainingConfig
from training.record import FILE as RECORD
from training.record import read_record
from training.strict_json import parse_json, read_json

# A run may be resumed with other values of these. Any other change makes it another run. Data and tokenizers may move
# to other paths: `data.json` and the ids in the model's config identify their content. So may `init`, see `open`, and a
# frozen text encoder, see `identity`.
_MAY_CHANGE = {
    "out", "data", "tokenizer", "text", "steps", "dry_run", "device", "precision", "log_every", "sample_every",
    "checkpoint_every", "keep_every", "workers", "cache", "verify", "trackers",
}  # fmt: skip


class RunFolder:
    """A folder with `config.json`, `data.json`, `command.txt`, `log.jsonl`, `checkpoints/`, `samples/` and `model/`.

    With `keep_every`, `averages/step-<step>/` are models like `model/`, of earlier steps.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.path = Path(config.out)
        self.checkpoints = self.path / "checkpoints"
        self.samples = self.path / "samples"
        self.model = self.path / "model"
        self.averages = self.path / "averages"
        self.log_file = self.path / "log.jsonl"
        self.command = shlex.join(["accelerate", "launch", *sys.argv])
        self._data_file = self.path / "data.json"
        self._lock: FileLock | None = None

    def lock(self) -> None:
        """Creates the folder if needed and locks it until the process ends. May be called again.

        Raises:
            BadInput: another trainer uses it, it holds other files, or the checkpoints of its run are lost.
        """
        claim(self.path, "a run")
        self._lock = self._lock or hold(self.path)
        for folder in (self.path, *filter(Path.is_dir, self.path.iterdir())):
            remove_leftovers(folder)
        self._require_checkpoints()

    def require_data(self, data: dict[str, Any]) -> None:
        """Raises `BadInput` if the folder has checkpoints from other data. `data` identifies the data
        (`Data.origin`). What an older version did not write down counts as equal."""
        if last_step(self.checkpoints):
            origin = self._origin(data)
            changed = sorted(_differences(self._recorded(), origin, origin))
            if changed:
                raise BadInput(
                    f"{self.path}: holds a run on other data ({', '.join(changed)}); "
                    "give the data that it began with, or choose another --out"
                )

    def open(self, data: dict[str, Any]) -> None:
        """Locks the folder and writes the config, the identity of the data and the command.

        The model that a run starts from, `init`, may move too: `data.json` has the hash of its weights. Runs of older
        versions lack the hash, or all of `data.json`, and get it now; until then `init` must have the same path.

        Raises:
            BadInput: as in `lock`; the folder holds a run with another config, other data or more steps; or the record
                of `init` is damaged.
        """
        self.lock()
        _ = self.init_record  # refused now, and not when the trained model is written
        file = self.path / "config.json"
        mine = json.loads(json.dumps(to_dict(self.config)))
        if file.exists():
            theirs = read_json(file)
            if mine["init"] and "init" in self._recorded():
                theirs["init"] = mine["init"]  # compared by content, in `require_data`
            changed = sorted(_differences(theirs, mine, _defaults(self.config)))
            if changed:
                raise BadInput(
                    f"{self.path}: holds a run with another config ({', '.join(changed)}); "
                    "to resume, give the command that began it, or choose another --out"
                )
        step = last_step(self.checkpoints)
        if step > self.config.steps:
            raise BadInput(f"{self.path}: is at step {step} already; give --steps {step} or more, or another --out")
        self.require_data(data)
        write_json(file, mine)
        write_json(self._data_file, self._origin(data))
        write_text(self.path / "command.txt", self.command + "\n")

    def _recorded(self) -> dict[str, Any]:
        """What `data.json` holds, if there is one."""
        return read_json(self._data_file) if self._data_file.exists() else {}

    def _origin(self, data: dict[str, Any]) -> dict[str, Any]:
        """What identifies all that the run learns from: its data, and the weights that it starts from, if any."""
        return data if self.config.init is None else {**data, "init": self._init_hash}

    @cached_property
    def init_record(self) -> dict[str, Any] | None:
        """The record of the model that the run starts from, empty if it has none; None if the run starts from none."""
        return None if self.config.init is None else read_record(self._init_folder)

    @cached_property
    def _init_folder(self) -> Path:
        assert self.config.init is not None
        return fetched(self.config.init, ["model.safetensors", RECORD])[0]

    @cached_property
    def _init_hash(self) -> str:
        file = self._init_folder / "model.safetensors"
        if not file.is_file():
            raise BadInput(f"{self.config.init}: has no {file.name}, so it is not a model to start from")
        with file.open("rb") as weights:
            return hashlib.file_digest(weights, "sha256").hexdigest()[:16]

    def _require_checkpoints(self) -> None:
        """Raises `BadInput` if checkpoints were deleted: the log or the model is further than a killed run explains.

        Otherwise the run would start again and overwrite that log, and later that model.
        """
        step, file = last_step(self.checkpoints), self.path / "config.json"
        every = (read_json(file) if file.exists() else {}).get("checkpoint_every", self.config.checkpoint_every)
        reached = max((line["step"] for line in self._lines()), default=0)
        # the last of the two checkpoints may have been damaged and deleted
        if reached >= step + 2 * every or (self.model.exists() and not step):
            there = "model" if self.model.exists() else f"log up to step {reached}"
            raise BadInput(
                f"{self.path}: has a {there}, but checkpoints only up to step {step}; "
                "resuming would overwrite results of the lost checkpoints: choose another --out"
            )

    def rewind_log(self, step: int) -> None:
        """Deletes the log lines after `step`, which a killed run wrote after its last checkpoint."""
        if self.log_file.exists():
            lines = self.log_file.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if (values := _parsed(line)) and values["step"] <= step]
            write_text(self.log_file, "".join(f"{line}\n" for line in kept))

    def flops_per_step(self) -> float | None:
        """The number in the log, if any. A resumed run keeps it."""
        counted = (line for line in self._lines() if "flops" in line)
        return next((line["flops"] / line["step"] for line in counted), None)

    def precision_before(self) -> str | None:
        """The precision of the last step in the log, if any."""
        return next((line["precision"] for line in reversed(self._lines()) if "precision" in line), None)

    def _lines(self) -> list[dict[str, Any]]:
        """The lines of the log, without an incomplete one that a kill left."""
        lines = self.log_file.read_text(encoding="utf-8").splitlines() if self.log_file.exists() else []
        return [values for line in lines if (values := _parsed(line))]

    def log(self, values: dict[str, Any]) -> None:
        """Appends `values` as one JSON line."""
        with error_names(self.log_file), appending(self.log_file) as file:
            file.write((json.dumps(values) + "\n").encode())


def _parsed(line: str) -> dict[str, Any] | None:
    """A line of the log; None if a kill left it incomplete."""
    try:
        values = parse_json(line, "log", finite=False)
    except BadInput:
        return None
    return values if isinstance(values, dict) and isinstance(values.get("step"), int) else None


def _defaults(config: TrainingConfig) -> dict[str, Any]:
    """The config with all fields at their defaults that have one.

    A run from before an option existed counts as one with the option's default.
    """
    bare = copy.copy(config)
    for field in dataclasses.fields(config):
        if field.default is not dataclasses.MISSING:
            setattr(bare, field.name, field.default)
        elif field.default_factory is not dataclasses.MISSING:
            setattr(bare, field.name, field.default_factory())
    return json.loads(json.dumps(to_dict(bare)))


def _differences(old: dict[str, Any], new: dict[str, Any], defaults: dict[str, Any], prefix: str = "") -> list[str]:
    """The options that differ and may not, as text for a message, with values of the run (there) and of the command
    (here)."""
    found = []
    for key in old.keys() | new.keys():
        default = defaults.get(key)
        a, b = old.get(key, default), new.get(key)
        if prefix + key in _MAY_CHANGE or identity(a) == identity(b):
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, default if isinstance(default, dict) else {}, f"{prefix}{key}.")
        else:
            found.append(f"{prefix}{key}: {a!r} there, {b!r} here")
    return found
