"""Benchmark of parallel decoding on a trained model: `python -m sampling.bench_parallel`.

It draws the same pictures one token a pass and a window of tokens a pass. It counts how many are the same and how many
passes they take, and times both, in turns in one run. The gain depends on what a model has learned, so the model must
be a trained one.
"""

import dataclasses
import functools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from data.emoji import emojis
from sampling.bench import machine, timed
from sampling.options import SamplingOptions
from sampling.pipeline import load
from sampling.token_backend import TokenBackend
from training.cli import command
from training.config import require
from training.device import with_device
from training.files import write_json
from training.shipped import shipped

TOGETHER = 20
"""Batch size where pictures are compared and time is not measured."""


@dataclass(frozen=True, kw_only=True)
class ParallelBenchOptions:
    """Draw captions of emoji with windows of several sizes, at temperature 1 and at the default options."""

    model: str = field(default_factory=shipped)
    """Bundle."""
    prompts: int = 200
    """Captions whose pictures are compared."""
    windows: list[int] = field(default_factory=lambda: [4, 8, 16, 32])
    """Window sizes, in tokens a pass."""
    batch: list[int] = field(default_factory=lambda: [1, 8])
    """Batch sizes where time is measured."""
    timed: int = 16
    """Captions to draw where time is measured."""
    device: str = "auto"
    """Device to compute on: `auto` (a GPU if there is one), `cpu`, `cuda`, `mps`, or another of torch's."""
    json: Path = Path("outputs/bench-parallel.json")
    """File for the results."""

    def __post_init__(self) -> None:
        for name in ("prompts", "timed"):
            require(self, name, getattr(self, name) >= 1, "1 or more")
        require(self, "windows", bool(self.windows) and min(self.windows) >= 2, "numbers of 2 or more")
        require(self, "batch", bool(self.batch) and min(self.batch) >= 1, "numbers of 1 or more")


def main(options: ParallelBenchOptions) -> None:
    """Draw, compare and time the pictures, print a table and write the results."""
    options = with_device(options)
    backend = load(options.model, device=options.device).backend("autoregressive")
    assert isinstance(backend, TokenBackend)
    corpus = emojis()
    captions = [corpus[i * len(corpus) // options.prompts].captions[0] for i in range(options.prompts)]
    rows = []
    for variant in (SamplingOptions(temperature=1.0), SamplingOptions()):
        rows += measure(backend, captions, dataclasses.replace(variant, parallel=0), options)
    result = {"machine": machine(options.device), "model": backend.model_id, "rows": rows}
    write_json(options.json, result)
    print(table(rows, options.batch))
    print(f"the results are in {options.json}")


def measure(
    backend: TokenBackend, captions: Sequence[str], one_by_one: SamplingOptions, options: ParallelBenchOptions
) -> list[dict[str, Any]]:
    """A row of results for each window; window 0 is one token a pass."""
    variants = {window: dataclasses.replace(one_by_one, parallel=window) for window in (0, *options.windows)}
    expected: list[Tensor] = []
    rows: list[dict[str, Any]] = []
    for window, variant in variants.items():
        codes = draw(backend, captions, variant, TOGETHER)
        expected = expected or codes
        same = sum(torch.equal(a, b) for a, b in zip(codes, expected, strict=True))
        rows.append(
            {"temperature": variant.temperature, "window": window, "pictures": len(codes), "same_pictures": same}
        )
    for batch in options.batch:
        times: dict[int, list[float]] = {window: [] for window in variants}
        passes: dict[int, list[int]] = {window: [] for window in variants}
        firsts = range(0, min(options.timed, len(captions)), batch)
        for first in tqdm(firsts, desc=f"temperature {one_by_one.temperature}, batch {batch}", unit="batch"):
            for window, variant in variants.items():
                some = captions[first : first + batch]
                seconds = timed(functools.partial(draw, backend, some, variant, batch), options.device)
                passes[window].append(backend.prepared.drawn[-1].passes)
                times[window].append(seconds / len(some))
        for row in rows:
            here = passes[row["window"]]
            row[f"batch_{batch}"] = {
                "seconds_a_picture": statistics.median(times[row["window"]]), "passes": statistics.mean(here),
                "tokens_a_pass": backend.model.config.length / statistics.mean(here),
            }  # fmt: skip
    return rows


def draw(backend: TokenBackend, captions: Sequence[str], variant: SamplingOptions, batch: int) -> list[Tensor]:
    """Draw the codes (h, w) of each caption, with the seeds 0, 1, ..."""
    codes: list[Tensor] = []
    for first in range(0, len(captions), batch):
        text = backend.ids(captions[first : first + batch]).to(backend.prepared.device)
        seeds = torch.arange(first, first + len(text), device=text.device)
        codes += backend.prepared.draw(text, seeds, variant)
    return codes


def table(rows: Sequence[dict[str, Any]], batches: Sequence[int]) -> str:
    """The results as a plain-text table, for a terminal."""
    lines = [f"{'temperature':>11} {'window':>6} {'same pictures':>13}" + "".join(
        f" | batch {batch}: {'passes':>6} {'ms a picture':>12}" for batch in batches
    )]  # fmt: skip
    for row in rows:
        line = f"{row['temperature']:11g} {row['window']:6} {row['same_pictures']:6} of {row['pictures']:3}"
        for batch in batches:
            found = row[f"batch_{batch}"]
            line += f" | {'':8} {found['passes']:6.1f} {1e3 * found['seconds_a_picture']:12.1f}"
        lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    command(main, ParallelBenchOptions)
