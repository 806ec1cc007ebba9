"""Times attention in training: `python -m training.bench`.

Compares `torch`'s operator with plain matrix products, forward and backward, taking turns in one run. The rule in
`training.attention` is based on these times.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from training.attention import attention_by_products
from training.cli import command
from training.config import require
from training.processes import set_up_cpu

SHAPES = ((32, 16, 16), (32, 65, 16), (32, 64, 64), (32, 65, 65), (8, 257, 257), (4, 513, 513), (2, 1025, 1025))
"""(batch, queries, keys) of the attention in the shipped presets, and of longer sequences with as many numbers."""


@dataclass(frozen=True, kw_only=True)
class AttentionBenchOptions:
    """Times attention, forward and backward, with 4 heads of width 64."""

    precision: Literal["bf16", "no"] = "bf16"
    """Dtype of queries, keys and values: bfloat16, or float32 for `no`."""
    repeats: int = 15
    """Timed calls. The median counts."""

    def __post_init__(self) -> None:
        require(self, "repeats", self.repeats >= 1, "1 or more")


def main(options: AttentionBenchOptions) -> None:
    """Times all shapes and prints a table in Markdown."""
    set_up_cpu()
    print("| B | T | S | operator, ms | matrix products, ms |")
    print("|---|---|---|---|---|")
    for batch, queries, keys in SHAPES:
        q, k, v = (
            torch.randn(batch, 4, length, 64, dtype=torch.bfloat16 if options.precision == "bf16" else torch.float32)
            .requires_grad_()
            for length in (queries, keys, keys)
        )  # fmt: skip
        times = [(_seconds(F.scaled_dot_product_attention, q, k, v), _seconds(attention_by_products, q, k, v))
                 for _ in range(options.repeats + 1)][1:]  # fmt: skip
        operator, products = (1000 * statistics.median(turns) for turns in zip(*times, strict=True))
        print(f"| {batch} | {queries} | {keys} | {operator:.1f} | {products:.1f} |")


def _seconds(attend: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor) -> float:
    began = time.perf_counter()
    attend(q, k, v).sum().backward()  # type: ignore[no-untyped-call]
    return time.perf_counter() - began


if __name__ == "__main__":
    command(main, AttentionBenchOptions)
