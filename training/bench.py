"""Times attention in training: `python -m training.bench`.

`torch`'s operator beside the products written out, forward and backward, in turns in one run; the rule in
`training.attention` rests on it.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from training.attention import written_out
from training.cli import command
from training.config import require
from training.processes import share_cores

SHAPES = ((32, 16, 16), (32, 65, 16), (32, 64, 64), (32, 65, 65), (8, 257, 257), (4, 513, 513), (2, 1025, 1025))
"""Batch, queries and keys of the shipped presets' attentions, and of longer ones with as many numbers."""


@dataclass(frozen=True, kw_only=True)
class AttentionBenchOptions:
    """Times attention, forward and backward, with 4 heads of width 64."""

    precision: Literal["bf16", "no"] = "bf16"
    """Of queries, keys and values."""
    repeats: int = 15
    """Turns; the median counts."""

    def __post_init__(self) -> None:
        require(self, "repeats", self.repeats >= 1, "1 or more")


def main(options: AttentionBenchOptions) -> None:
    """Times and prints a table in Markdown."""
    share_cores()
    print("| B | T | S | operator, ms | written out, ms |")
    print("|---|---|---|---|---|")
    for batch, queries, keys in SHAPES:
        q, k, v = (
            torch.randn(batch, 4, length, 64, dtype=torch.bfloat16 if options.precision == "bf16" else torch.float32)
            .requires_grad_()
            for length in (queries, keys, keys)
        )  # fmt: skip
        times = [(_seconds(F.scaled_dot_product_attention, q, k, v), _seconds(written_out, q, k, v))
                 for _ in range(options.repeats + 1)][1:]  # fmt: skip
        operator, written = (1000 * statistics.median(turns) for turns in zip(*times, strict=True))
        print(f"| {batch} | {queries} | {keys} | {operator:.1f} | {written:.1f} |")


def _seconds(attend: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor) -> float:
    began = time.perf_counter()
    attend(q, k, v).sum().backward()  # type: ignore[no-untyped-call]
    return time.perf_counter() - began


if __name__ == "__main__":
    command(main, AttentionBenchOptions)
