"""The record of a finished run, beside its model: how it was trained, at what cost, and with which results."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from training.errors import BadInput
from training.options import TrainingConfig
from training.redact import redacted
from training.strict_json import read_json, read_json_lines

FILE = "training.json"
Shape = Sequence[int]


def flop_counter() -> FlopCounterMode:
    """A context manager that counts floating-point operations of matrix products, forward and backward.

    `torch` counts attention on accelerators only, so its CPU operators are added here. And before version 2.12 it
    refuses attention with fewer heads of keys than of queries (`key_heads`).
    """
    aten = torch.ops.aten
    names = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
    operators = {
        name: getattr(aten, f"_scaled_dot_product_{name}") for name in (*names, *(f"{one}_backward" for one in names))
    }
    return FlopCounterMode(
        display=False,
        custom_mapping={
            operator: _attention_backward_flops if name.endswith("backward") else _attention_flops
            for name, operator in operators.items()
        },
    )


def _attention_flops(q: Shape, k: Shape, v: Shape, *_: Any, **__: Any) -> int:
    """Operations of attention, by the shapes of queries, keys and values. Heads that are shared count for each use."""
    return sdpa_flop_count(q, (*q[:2], *k[2:]), (*q[:2], *v[2:]))  # type: ignore[no-untyped-call]


def _attention_backward_flops(gradient: Shape, q: Shape, k: Shape, v: Shape, *_: Any, **__: Any) -> int:
    """As `_attention_flops`, of the backward pass."""
    return sdpa_backward_flop_count(gradient, q, (*q[:2], *k[2:]), (*q[:2], *v[2:]))  # type: ignore[no-untyped-call]


def record(
    config: TrainingConfig, command: str, log: Path, device: torch.device, init: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The record of a run up to the last step in its log, as JSON values.

    `flops` are those of all these steps, extrapolated from one. `seconds` are of training only, without samples.
    `figures` are the last of each kind in the log. `curves` are the losses as [flops so far, loss] pairs. `init`, which
    is given, is the record of the model that the run started from, if any; its cost is not included in this one's.
    Paths outside the working directory are reduced to their names, because the record is published with the model.
    """
    lines = [line for _, line in read_json_lines(log, max_bytes=2**30, finite=False)]
    last = {name: value for line in lines for name, value in line.items()}
    seconds, step = 0.0, 0
    for line in lines:
        if "images_per_second" in line:
            seconds += (line["step"] - step) * config.batch_size / line["images_per_second"]
            step = line["step"]
    precisions = [name for name, _ in groupby(line["precision"] for line in lines if "precision" in line)]
    left_out = {
        "step", "precision", "batch", "flops", "learning_rate", "grad_norm", "images_per_second", "tokens_per_second",
    }  # fmt: skip
    return redacted({
        "command": command, "data": config.data, "seed": config.seed, "steps": last["step"],
        "batch_size": config.batch_size, "pictures": last["step"] * config.batch_size, "flops": last.get("flops"),
        "seconds": round(seconds, 1), "device": device.type, "precision": ", then ".join(precisions),
        "torch": torch.__version__,
        "figures": {name: value for name, value in last.items() if name not in left_out},
        "curves": {name: _curve(lines, name) for name in ("loss", "validation_loss")},
        **({} if init is None else {"init": init}),
    })  # fmt: skip


def _curve(lines: list[dict[str, Any]], name: str) -> list[list[float]]:
    """About 100 pairs at most: [flops so far, mean of the values logged since the previous pair]."""
    flops = next((line["flops"] / line["step"] for line in lines if "flops" in line), 0.0)
    logged = [(line["step"] * flops, line[name]) for line in lines if name in line]
    parts = [logged[first : first + 1 + len(logged) // 100] for first in range(0, len(logged), 1 + len(logged) // 100)]
    return [[part[-1][0], sum(value for _, value in part) / len(part)] for part in parts]


def whole_curves(found: Mapping[str, Any]) -> dict[str, list[list[float]]]:
    """The curves of a record, preceded by those of the runs that it started from. Flops count from the first of
    them."""
    before = found.get("init") or {}
    earlier, offset = whole_curves(before) if before else {}, total(before, "flops")
    own = found.get("curves", {})
    return {
        name: earlier.get(name, []) + [[flops + offset, value] for flops, value in own.get(name, [])]
        for name in earlier.keys() | own.keys()
    }


def total(found: Mapping[str, Any], cost: str) -> float:
    """The `cost`, `flops` or `seconds`, of a record and of the runs that it started from. Unknown ones count as 0."""
    before = found.get("init")
    return (found.get(cost) or 0.0) + (total(before, cost) if before else 0.0)


def read_record(model: Path) -> dict[str, Any]:
    """The record in a model folder, as `record` makes it; empty if there is none.

    Raises:
        BadInput: the file is damaged, or not such a record.
    """
    file = model / FILE
    if not file.is_file():
        return {}
    found = read_json(file, finite=False)
    _require_record(found, str(file))
    return redacted(found)  # records of older versions have full paths


def _require_record(found: Any, where: str) -> None:
    """Raises `BadInput` unless `found` has the fields of a record with the right types, and so have its `init`
    records."""
    if not isinstance(found, dict):
        raise BadInput(f"{where}: not a training record")
    missing = {"steps", "batch_size", "data", "figures"} - found.keys()
    if missing:
        raise BadInput(f"{where}: not a training record: {min(missing)} is missing")
    for name, fits in _FIELDS.items():
        if name in found and not fits(found[name]):
            raise BadInput(f"{where}: not a training record: {name} is {repr(found[name])[:80]}")
    if found.get("init"):
        _require_record(found["init"], f"{where}, init")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_cost(value: Any) -> bool:
    return value is None or (_is_number(value) and 0 <= value < 1e40)


def _is_curve(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair)) for pair in value
    )


_FIELDS: dict[str, Callable[[Any], bool]] = {
    **{name: lambda value: type(value) is int for name in ("steps", "batch_size", "pictures", "seed")},
    **{name: lambda value: isinstance(value, str) for name in ("data", "command", "device", "precision", "torch")},
    **dict.fromkeys(("flops", "seconds"), _is_cost),
    "averaged": lambda value: isinstance(value, list) and all(type(step) is int for step in value),
    "figures": lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
    "curves": lambda value: isinstance(value, dict) and all(map(_is_curve, value.values())),
}
