"""Render a comparison as HTML and Markdown: a table of metrics with intervals and controls, curves, pictures."""

import base64
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from data.grid import to_pil
from evaluation.metrics import Metric
from evaluation.result import metrics_to_dict
from sampling.picture_files import read_png
from training.errors import needing
from training.files import inside
from training.markdown import plain, tabulated
from training.record import total

if TYPE_CHECKING:
    from jinja2 import Environment

_CURVES = (
    "kid", "kid_lite1", "fid", "retrieval_top1", "retrieval_top1_lite1", "concept_and_style", "concept_and_style_lite1",
    "style_accuracy", "attribute_accuracy", "clip_score",
)  # fmt: skip
_ROWS = 16
_WIDTH, _HEIGHT, _EDGE = 320, 200, 36
_LINE_COLOURS = ("#1b6ca8", "#c8553d", "#2a9d5c", "#7a4fa3", "#b8860b")


@dataclass(frozen=True, kw_only=True)
class Column:
    """A result in a comparison."""

    name: str
    folder: Path
    result: Mapping[str, Any]
    pictures: Sequence[Mapping[str, Any]]

    def first_pictures(self) -> dict[str, int]:
        """The index of the first picture of each prompt. A suite may have several prompts of the same words."""
        indices: dict[str, int] = {}
        for index, picture in enumerate(self.pictures):
            indices.setdefault(str(picture["prompt"]), index)
        return indices

    def control(self, name: str, index: int) -> str:
        """File of a control for the picture at `index`. Controls are numbered by prompt, not by picture."""
        return f"controls/{name}/{index // self.result['protocol'].get('num_images', 1):05d}.png"


def index_by_prompt(pictures: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, Any, int], int]:
    """The index of each picture by prompt, seed, and the number of earlier pictures with both."""
    indices: dict[tuple[Any, Any, int], int] = {}
    seen: Counter[tuple[Any, Any]] = Counter()
    for index, picture in enumerate(pictures):
        both = (picture.get("prompt"), picture.get("seed"))
        indices[*both, seen[both]] = index
        seen[both] += 1
    return indices


def markdown_table(
    columns: Sequence[Column], mismatch: Sequence[str], judged: Mapping[str, Metric], metrics: Sequence[str] = ()
) -> str:
    """The comparison as a Markdown table: a row for each metric, a column for each result and then each control.

    `metrics` limits the rows; without it, or if no result has any of them, there are all. `mismatch` and `judged` (win
    rates) are stated above and below the table.
    """
    heads, rows = _table(columns, metrics)
    lines = [f"**Not the same protocol:** {plain('; '.join(mismatch))}\n"] if mismatch else []
    lines.append(tabulated(["", *heads], [[name, *cells] for name, cells in rows]))
    first = columns[0].result
    suite = (first["protocol"].get("suite") or {}).get("name", "no suite")
    lines += ["", f"{first['count']:,} pictures; {plain(suite)}; 95 % intervals by bootstrap; reference: "
              f"{plain(first['protocol']['reference']['name'])}."]  # fmt: skip
    for name, rate in metrics_to_dict(judged).items():
        lines.append(f"Preferred by people: {plain(name)} {format_metric(rate)}.")
    return "\n".join(lines) + "\n"


def html_report(columns: Sequence[Column], mismatch: Sequence[str], judged: Mapping[str, Metric]) -> str:
    """The comparison as one HTML page, with pictures and curves embedded."""
    names = _metric_names(columns)
    heads, rows = _table(columns)
    return render(
        "report.html",
        mismatch=mismatch,
        heads=heads,
        rows=rows,
        curves=[_curve(columns, name, axis) for name in _CURVES if name in names for axis in _AXES],
        shown=_shown([column for column in columns if column.pictures]),
        judged=[(name, format_metric(rate)) for name, rate in metrics_to_dict(judged).items()],
        columns=columns,
        categories=[(column.name, column.result.get("categories", {})) for column in columns],
        format_metric=format_metric,
    )


def render(template: str, **values: Any) -> str:
    """Render a template of `evaluation/templates`; all values are escaped."""
    return _templates().get_template(template).render(**values)


@cache
def _templates() -> "Environment":
    with needing("eval"):
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    folder = FileSystemLoader(Path(__file__).with_name("templates"))
    return Environment(loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _table(columns: Sequence[Column], only: Sequence[str] = ()) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The heads of the columns, results and then controls; and for each metric and cost its name and cells."""
    measured = [(column.name, column.result["metrics"]) for column in columns] + _measured_controls(columns)
    names = _metric_names(columns)
    rows = [
        (f"{name} {_arrow(columns, name)}", [format_metric(metrics.get(name)) for _, metrics in measured])
        for name in [name for name in names if name in only] or names
    ]
    for name, cost in _COSTS.items():
        costs = [cost(column.result.get("subject", {})) for column in columns]
        rows.append((name, costs + [""] * (len(measured) - len(columns))))
    return [label for label, _ in measured], rows


def _measured_controls(columns: Sequence[Column]) -> list[tuple[str, Mapping[str, Any]]]:
    """Label and metrics of each control. A control that no result has is shown with no metrics."""
    controls = {
        "real": "real pictures",
        "reconstruction": "their reconstruction",
        "nearest_caption": "nearest-caption copy",
    }
    measured: list[tuple[str, Mapping[str, Any]]] = []
    for name, label in controls.items():
        found: dict[str, Mapping[str, Any]] = {}
        for column in columns:
            if name in column.result.get("controls", {}):
                # reconstructions differ by image tokenizer; the other controls do not depend on a model
                pixels = column.result.get("subject", {}).get("pixels_id", column.name)
                which = f"{label} (pixels {pixels})" if name == "reconstruction" else label
                found.setdefault(which, column.result["controls"][name]["metrics"])
        measured += [(which if len(found) > 1 else label, metrics) for which, metrics in found.items()]
        measured += [] if found else [(label, {})]
    return measured


def _metric_names(columns: Sequence[Column]) -> list[str]:
    return list(dict.fromkeys(name for column in columns for name in column.result["metrics"]))


def _arrow(columns: Sequence[Column], name: str) -> str:
    metric = next(column.result["metrics"][name] for column in columns if name in column.result["metrics"])
    return "↑" if metric["higher_is_better"] else "↓"


def format_metric(metric: Mapping[str, Any] | None) -> str:
    """Format a metric as `0.123 (0.110 to 0.140)`, with its bias if that is known; None as a dash."""
    if metric is None:
        return "–"
    low, high = metric["low"], metric["high"]
    interval = f" ({low:.3g} to {high:.3g})" if low is not None else ""
    bias = f", bias {metric['bias']:+.3g}" if "bias" in metric else ""
    return f"{metric['value']:.3g}{interval}{bias}"


def _speed(subject: Mapping[str, Any]) -> str:
    speed = subject.get("images_per_second")
    return f"{speed:.3g}" if speed else ""


def _size(subject: Mapping[str, Any]) -> str:
    count = subject.get("parameters", {}).get(subject.get("backend"))
    return f"{count / 1e6:.3g} M" if count else ""


def _compute(subject: Mapping[str, Any]) -> str:
    flops = total(subject.get("training", {}), "flops")
    return f"{flops / 1e15:.3g} PFLOP" if flops else ""


_COSTS = {"images/s": _speed, "parameters": _size, "training": _compute}


def _option(name: str) -> Callable[[Column], float | None]:
    return lambda column: column.result.get("subject", {}).get("options", {}).get(name)


def _seconds(column: Column) -> float | None:
    speed = column.result.get("subject", {}).get("images_per_second")
    return 1 / speed if speed else None


_AXES: Mapping[str, Callable[[Column], float | None]] = {
    "guidance": _option("guidance"),
    "steps": _option("steps"),
    "seconds an image": _seconds,
}


def _line_of(column: Column, axis: str) -> dict[str, Any]:
    """What the results of one line have in common: the model, and all options but those that vary along the axis."""
    subject = column.result.get("subject", {})
    free = ("guidance", "steps") if axis == "seconds an image" else (axis,)
    options = {name: value for name, value in subject.get("options", {}).items() if name not in free}
    return {"backend": subject.get("backend", column.name), "model": subject.get("model_id"), **options}


def _label(line: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> str:
    """The label of a line: the backend, and what differs from other lines of this backend."""
    others = [other for other in lines if other["backend"] == line["backend"]]
    differing = [name for name, value in line.items() if any(other.get(name) != value for other in others)]
    return ", ".join([line["backend"], *(f"{name} {line[name]}" for name in differing)])


def _curve(columns: Sequence[Column], name: str, axis: str) -> dict[str, Any]:
    """A plot of a metric over an axis, in SVG coordinates: a line for each model with equal other options."""
    lines: dict[str, list[tuple[float, Mapping[str, Any]]]] = {}
    for column in columns:
        x, metric = _AXES[axis](column), column.result["metrics"].get(name)
        if x is not None and metric is not None:
            lines.setdefault(json.dumps(_line_of(column, axis)), []).append((x, metric))
    descriptions = [json.loads(line) for line in lines]
    points = [point for line in lines.values() for point in line]
    if len({x for x, _ in points}) < 2:  # nothing varies along this axis
        return {"name": name, "axis": axis, "lines": [], "width": _WIDTH, "height": _HEIGHT}
    xs = [x for x, _ in points]
    ys = [value for _, m in points for value in (m["value"], m["low"], m["high"]) if value is not None]
    place_x, place_y = _scale(xs, _EDGE, _WIDTH - 12), _scale(ys, _HEIGHT - 24, 12)
    plotted = []
    for colour, description, line in zip(_LINE_COLOURS * len(lines), descriptions, lines.values(), strict=False):
        dots = []
        for x, m in sorted(line, key=lambda point: point[0]):
            low, high = (m["value"] if m[end] is None else m[end] for end in ("low", "high"))
            place = {"x": place_x(x), "y": place_y(m["value"]), "low": place_y(low), "high": place_y(high)}
            dots.append({**place, "tooltip": f"{x:.3g}: {format_metric(m)}"})
        plotted.append({"label": _label(description, descriptions), "colour": colour, "dots": dots})
    return {
        "name": name, "axis": axis, "lines": plotted, "width": _WIDTH, "height": _HEIGHT,
        "left": f"{min(xs):.3g}", "right": f"{max(xs):.3g}", "bottom": f"{min(ys):.3g}", "top": f"{max(ys):.3g}",
    }  # fmt: skip


def _scale(values: Sequence[float], begin: float, end: float) -> Any:
    """A linear map from the range of `values` to the range from `begin` to `end`."""
    low, high = min(values), max(values)
    return lambda value: round(begin + (end - begin) * ((value - low) / (high - low) if high > low else 0.5), 1)


def _shown(columns: Sequence[Column]) -> dict[str, Any]:
    """Rows of pictures of the same prompt and seed, evenly chosen from the worst to the best mean score."""
    if not columns:
        return {"heads": [], "rows": []}
    indices = [index_by_prompt(column.pictures) for column in columns]
    by_prompt = [
        {key: column.pictures[i] for key, i in index.items()} for column, index in zip(columns, indices, strict=True)
    ]
    common = [key for key in by_prompt[0] if all(key in others for others in by_prompt)]
    ranked = sorted(common, key=lambda key: sum(_mean_score(pictures[key]) for pictures in by_prompt))
    some = torch.linspace(0, len(ranked) - 1, min(_ROWS, len(ranked))).long().tolist() if ranked else []
    rows = []
    for key in (ranked[i] for i in some):
        cells = [
            data_uri(column.folder, pictures[key]["file"]) for column, pictures in zip(columns, by_prompt, strict=True)
        ]
        rows.append({"prompt": key[0], "seed": key[1], "cells": [*cells, *_controls(columns[0], indices[0][key])]})
    return {"heads": [*(c.name for c in columns), *_control_names(columns[0])], "rows": rows}


def _mean_score(picture: Mapping[str, Any]) -> float:
    scores = picture.get("scores", {})
    return sum(scores.values()) / len(scores) if scores else 0.0


def _control_names(column: Column) -> list[str]:
    names = ("real", "reconstruction", "nearest_caption")
    return [name for name in names if (column.folder / "controls" / name).is_dir()]


def _controls(column: Column, index: int) -> list[str]:
    return [data_uri(column.folder, column.control(name, index)) for name in _control_names(column)]


def data_uri(folder: Path, name: str) -> str:
    """A PNG inside `folder` as a data URI, for a page without other files; "" if it does not exist.

    The PNG is encoded again, so that only its pixels get into the page. Raises `BadInput` as `inside` and `read_png`.
    """
    try:
        (folder / name).lstat()
    except (OSError, ValueError):  # ValueError for a string that cannot be a file name
        return ""
    encoded = io.BytesIO()
    to_pil(read_png(inside(folder, name))).save(encoded, format="PNG")
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()
