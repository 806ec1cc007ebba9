"""Plot the training loss of each backend of a bundle against compute: `python -m evaluation.curves --model BUNDLE`.

The losses have different units, nats a token and squared error. So each has its own panel, and only the axis of compute
is shared.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sampling.backend import backend_class
from sampling.pipeline import listed_backends
from training.cli import command
from training.errors import BadInput, needing
from training.files import atomic
from training.record import read_record, total, whole_curves
from training.shipped import require_given, shipped


@dataclass(kw_only=True)
class CurvesOptions:
    """Plot the losses in the `training.json` of each backend of a bundle against floating-point operations."""

    model: str = field(default_factory=shipped)
    """Bundle folder."""
    plot: Path = Path("outputs/curves.png")
    """File to write, PNG or SVG."""


def main(options: CurvesOptions) -> None:
    """Read the losses, plot them, and print where the plot is."""
    require_given(options.model)
    folder = Path(options.model)
    found = {kind: read_record(folder / kind) for kind in listed_backends(folder / "bundle.json")}
    curves = {
        name: whole_curves(run) for name, run in found.items() if run.get("flops") and run.get("curves", {}).get("loss")
    }
    if not curves:
        raise BadInput(f"{options.model}: no training.json beside its models has losses and their compute")
    plot(curves, options.plot)
    for name, run in found.items():
        if name in curves:
            last = curves[name]["loss"][-1][1]
            print(f"{backend_class(name).title}: {total(run, 'flops') / 1e15:.3g} PFLOP, loss {last:.3f} at the end")
    print(f"the curves are in {options.plot}")


def plot(curves: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Plot the losses of each backend, pairs of (operations so far, loss), in its panel."""
    with needing("bench"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(5 * len(curves) + 1, 3.5), layout="constrained")
    most = max(pair[0] for losses in curves.values() for line in losses.values() for pair in line)
    for panel, (name, losses) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for loss, line in losses.items():
            if line:
                kind = "o--" if loss.startswith("validation") else "-"
                compute, values = zip(*((flops / 1e15, value) for flops, value in line), strict=True)
                panel.plot(compute, values, kind, label=loss.replace("_", " "))
        backend = backend_class(name)
        panel.set(title=backend.title, xlabel="compute, PFLOP", ylabel=backend.loss_unit, xlim=(0, most / 1e15))
        panel.legend()
    with atomic(file) as temporary:
        figure.savefig(temporary, format=file.suffix.removeprefix(".") or "png", dpi=120)


if __name__ == "__main__":
    command(main, CurvesOptions)
