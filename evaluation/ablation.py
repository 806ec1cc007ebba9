"""Compare training recipes at equal compute: `python -m evaluation.ablation --config tokenizer-losses --out FOLDER`.

A table of rows says by which flags the runs differ. One step of each row is counted first, and gives the number of
steps that cost as many floating-point operations as those of all other rows. Each run is then judged by the same
commands, and all figures stand in one table. `configs/ablation/` has examples.
"""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from tqdm import tqdm

from evaluation.report import format_metric
from training.cli import command
from training.config import require
from training.errors import BadInput
from training.files import write_json, write_text
from training.markdown import tabulated
from training.strict_json import read_json

_FIGURES = "figures.json"


@dataclass(kw_only=True)
class AblationOptions:
    """Train each row of a table by equal counted compute, judge it, and put all rows into one table."""

    presets: ClassVar = "ablation"

    train: str
    """The trainer, and the flags that all rows share but `--steps` and `--out`: `tokenizer/train.py --config emoji`."""
    rows: dict[str, str]
    """The flags of each row, by its name. "" for no more flags."""
    flops: float
    """Floating-point operations of each run, as the trainers count them."""
    judge: dict[str, str]
    """Commands that judge a run, by name: the words after `python -m`, with {run} for the run's folder, and without
    `--out`. Each writes a `report.json` or a `result.json`."""
    metrics: list[str] = field(default_factory=list)
    """The metrics in the table; by default all."""
    count: str = ""
    """More flags for the step that is counted, where later ones cost more, as with `--task.start`."""
    out: Path
    """Folder for the runs and `table.md`. The same command again continues."""

    def __post_init__(self) -> None:
        require(self, "flops", self.flops > 0, "greater than 0")
        require(self, "rows", bool(self.rows), "one or more")
        require(self, "judge", bool(self.judge), "one or more")
        for names in (self.rows, self.judge):
            folders: dict[str, str] = {}
            for name in names:
                if (other := folders.setdefault(_file_name(name), name)) != name:
                    raise BadInput(f"'{other}' and '{name}' share a folder: names must differ in letters or digits")


def main(options: AblationOptions) -> None:
    """Train and judge all rows; write the table after each."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, flags in tqdm(options.rows.items(), desc="rows", unit="row"):
        found[name] = _row(name, flags, options)
        write_text(options.out / "table.md", table(found, options.metrics))
    print(table(found, options.metrics))
    print(f"the table is in {options.out / 'table.md'}")


def table(found: Mapping[str, Mapping[str, Any]], metrics: Sequence[str]) -> str:
    """A Markdown table of the figures of all rows: the steps, then each metric, with its interval, by each judge."""
    names = list(dict.fromkeys(name for figures in found.values() for name in figures["metrics"]))
    shown = [name for name in names if not metrics or name.rpartition(": ")[2] in metrics]
    lines = [
        [row, f"{figures['steps']:,}", *(format_metric(figures["metrics"].get(name)) for name in shown)]
        for row, figures in found.items()
    ]
    return tabulated(["", "steps", *shown], lines) + "\n"


def _row(name: str, flags: str, options: AblationOptions) -> dict[str, Any]:
    """The figures of a row; from its folder, if they are there and of the same flags."""
    run = options.out / _file_name(name)
    train = [*shlex.split(options.train), *shlex.split(flags)]
    asked = {"train": shlex.join(train), "flops": options.flops, "judge": options.judge}
    if (run / _FIGURES).exists():
        figures = read_json(run / _FIGURES)
        if figures["asked"] != asked:
            raise BadInput(f"{run}: is of other flags or another table; move it away, or give another --out")
        return figures
    cost = _flops_of_step([*train, *shlex.split(options.count)])
    steps = max(1, round(options.flops / cost))
    _python(*train, "--steps", str(steps), "--out", str(run))
    metrics: dict[str, Any] = {}
    for judge, words in options.judge.items():
        judged = run / "judged" / _file_name(judge)
        _python("-m", *(word.replace("{run}", str(run)) for word in shlex.split(words)), "--out", str(judged))
        for file in sorted([*judged.rglob("report.json"), *judged.rglob("result.json")]):
            which = ", ".join([judge, *file.parent.relative_to(judged).parts])
            metrics |= {f"{which}: {metric}": value for metric, value in read_json(file)["metrics"].items()}
    figures = {"asked": asked, "steps": steps, "flops_of_step": cost, "metrics": metrics}
    write_json(run / _FIGURES, figures)
    return figures


def _file_name(name: str) -> str:
    return re.sub(r"\W+", "-", name).strip("-")


def _flops_of_step(train: Sequence[str]) -> float:
    """Floating-point operations of one training step, forward and backward."""
    with TemporaryDirectory() as folder:
        _python(*train, "--steps", "1", "--sample_every", "0", "--out", folder)
        last = (Path(folder) / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    return float(json.loads(last)["flops"])


def _python(*words: str) -> None:
    """Run Python with these words. Raises `BadInput` if that fails; the command has said why."""
    done = subprocess.run([sys.executable, *words], check=False)
    if done.returncode:
        raise BadInput(f"this command ended with code {done.returncode}: python {shlex.join(words)}")


if __name__ == "__main__":
    command(main, AblationOptions)
