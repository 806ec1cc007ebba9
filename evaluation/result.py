"""The result file: what was measured, on what, with what, and everything that the claim rests on."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from evaluation.judge import Scores
from evaluation.metrics import Metric
from training.errors import BadInput
from training.files import write_json
from training.strict_json import read_json

FORMAT = "tessera-evaluation"
VERSION = 1
SCHEMA = Path(__file__).with_name("result.schema.json")


def head(kind: str, name: str, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """How every result begins."""
    return {"format": FORMAT, "version": VERSION, "kind": kind, "name": name, "protocol": dict(protocol)}


def figures(metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """Metrics as they stand in a result file."""
    return {name: metric.to_dict() for name, metric in metrics.items()}


def scored(scores: Scores) -> dict[str, Any]:
    """The part of a result that a set of pictures has, the model's and every control's."""
    return {
        "metrics": figures(scores.metrics),
        "categories": {label: figures(means) for label, means in scores.categories.items()},
        "notes": scores.notes,
    }


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Checks a result against the schema and writes it. Raises `ValueError` for a figure that is no number."""
    jsonschema.validate(json.loads(json.dumps(result, allow_nan=False)), _schema())
    write_json(path, result)


def read_result(path: Path) -> dict[str, Any]:
    """Reads a result file, or the `result.json` of a folder. Raises `BadInput` for anything else or another version."""
    file = path / "result.json" if path.is_dir() else path
    result = read_json(file, max_bytes=2**27)
    if result.get("format") != FORMAT:
        raise BadInput(f"{file}: not a result of the evaluation")
    if result.get("version") != VERSION:
        raise BadInput(f"{file}: a result of version {result.get('version')}, this is {VERSION}; measure it again")
    try:
        jsonschema.validate(result, _schema())
    except jsonschema.ValidationError as error:
        raise BadInput(f"{file}: not a valid result: {error.json_path} {error.message}") from None
    return result


def differences(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Each field of two protocols that differs: `"reference.count: 500 and 333"`."""
    found = []
    for key in sorted(a.keys() | b.keys()):
        mine, theirs = a.get(key), b.get(key)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            found += differences(mine, theirs, f"{prefix}{key}.")
        elif mine != theirs:
            found.append(f"{prefix}{key}: {json.dumps(mine)} and {json.dumps(theirs)}")
    return found


@cache
def _schema() -> dict[str, Any]:
    return json.loads(SCHEMA.read_text(encoding="utf-8"))
