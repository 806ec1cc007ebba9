"""The result file of an evaluation: metrics, and all that they depend on. `result.schema.json` defines its fields."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from evaluation.judge import Scores
from evaluation.metrics import Metric
from training.errors import BadInput, needing
from training.files import write_json
from training.strict_json import read_json

FORMAT = "tessera-evaluation"
VERSION = 2
SCHEMA = Path(__file__).with_name("result.schema.json")


def header(kind: str, name: str, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The first fields of a result file."""
    return {"format": FORMAT, "version": VERSION, "kind": kind, "name": name, "protocol": dict(protocol)}


def metrics_to_dict(metrics: Mapping[str, Metric]) -> dict[str, Any]:
    """Metrics as JSON values of a result file."""
    return {name: metric.to_dict() for name, metric in metrics.items()}


def scores_to_dict(scores: Scores) -> dict[str, Any]:
    """The scores of a set of pictures, or of a control, as fields of a result file."""
    return {
        "metrics": metrics_to_dict(scores.metrics),
        "categories": {label: metrics_to_dict(means) for label, means in scores.categories.items()},
        "notes": scores.notes,
    }


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Check a result against the schema and write it. Raises `ValueError` for NaN or infinity."""
    with needing("eval"):
        import jsonschema
    jsonschema.validate(json.loads(json.dumps(result, allow_nan=False)), _schema())
    write_json(path, result)


def read_result(path: Path) -> dict[str, Any]:
    """Read a result file, or the `result.json` in a folder. Raises `BadInput` for anything else or another version."""
    with needing("eval"):
        import jsonschema
    file = path / "result.json" if path.is_dir() else path
    result = read_json(file, max_bytes=2**27)
    if result.get("format") != FORMAT:
        raise BadInput(f"{file}: not a result of the evaluation")
    if result.get("version") != VERSION:
        raise BadInput(
            f"{file}: a result of version {result.get('version')}, but only {VERSION} can be read; evaluate again"
        )
    try:
        jsonschema.validate(result, _schema())
    except jsonschema.ValidationError as error:
        raise BadInput(f"{file}: not a valid result: {error.json_path} {error.message}") from None
    return result


def differences(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The fields in which two protocols differ, such as `"reference.count: 500 and 333"`."""
    found = []
    for key in sorted(a.keys() | b.keys()):
        first, second = a.get(key), b.get(key)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            found += differences(first, second, f"{prefix}{key}.")
        elif first != second:
            found.append(f"{prefix}{key}: {json.dumps(first)} and {json.dumps(second)}")
    return found


@cache
def _schema() -> dict[str, Any]:
    return json.loads(SCHEMA.read_text(encoding="utf-8"))
