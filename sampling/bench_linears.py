"""Benchmark behind the rule of `seq2seq.packed.packing`: `python -m sampling.bench_linears`.

It times the linear layers of one step of the token model's decoder, by what weights are packed in and the number of
rows. Layers are called in order, as in a step, so weights come from memory and not from a cache. The fastest call
of each layer counts: on a busy machine it is the one that was not interrupted.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sampling.bench import machine
from seq2seq.packed import packed_linear
from training.cli import command
from training.config import require
from training.files import write_json
from training.markdown import tabulated
from training.precision import has_bf16

Linear = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class LinearsBenchOptions:
    """Time the linear layers of a step, by what weights are packed in and the number of rows."""

    rows: list[int] = field(default_factory=lambda: [2, 4, 8, 16, 32, 64, 128])
    """Numbers of rows: new tokens times pictures, twice as many with guidance."""
    width: int = 384
    """Width of the decoder."""
    depth: int = 8
    """Blocks of the decoder."""
    repeats: int = 30
    """Timed turns of each variant."""
    json: Path = Path("outputs/bench-linears.json")
    """File for the results."""

    def __post_init__(self) -> None:
        for name in ("width", "depth", "repeats"):
            require(self, name, getattr(self, name) >= 1, "1 or more")
        require(self, "rows", bool(self.rows) and min(self.rows) >= 1, "numbers of 1 or more")


@torch.no_grad()
def main(options: LinearsBenchOptions) -> None:
    """Time all variants, print a table and write the results."""
    weights = step_weights(options.width, options.depth)
    packed = {name: [build(weight) for weight in weights] for name, build in variants().items()}
    results: list[dict[str, Any]] = []
    for rows in tqdm(options.rows, unit="rows"):
        inputs = {weight.shape[1]: torch.randn(rows, weight.shape[1]) for weight in weights}
        fastest = {name: [math.inf] * len(weights) for name in packed}  # of each layer
        for _ in range(options.repeats):
            for name, layers in packed.items():
                for i, (weight, layer) in enumerate(zip(weights, layers, strict=True)):
                    begin = time.perf_counter()
                    layer(inputs[weight.shape[1]])
                    fastest[name][i] = min(fastest[name][i], 1e3 * (time.perf_counter() - begin))
        results.append({"rows": rows, "ms": {name: round(sum(ms), 3) for name, ms in fastest.items()}})
    bits16 = 2 * sum(weight.numel() for weight in weights)
    write_json(options.json, {
        "machine": machine("cpu"), "model": {"width": options.width, "depth": options.depth},
        "bytes_in_16_bits": bits16, "rows": results,
    })  # fmt: skip
    lines = [[str(one["rows"]), *(f"{ms:.2f}" for ms in one["ms"].values())] for one in results]
    print(tabulated(["rows", *packed], lines))
    print(f"ms for all layers, each its fastest of {options.repeats}; the results are in {options.json}")


def step_weights(width: int, depth: int) -> list[Tensor]:
    """Random weights (out, in) of each linear layer in a step, in order, which bfloat16 holds exactly."""
    block = [(3, 1), (1, 1), (1, 1), (1, 1), (4, 1), (1, 4)]  # out and in, times the width
    shapes = [*((width * out, width * into) for out, into in block * depth), (2049, width)]
    return [torch.randn(shape).bfloat16().float() for shape in shapes]


def variants() -> dict[str, Callable[[Tensor], Linear]]:
    """What builds a layer from its weight, by name: those that this machine has."""
    found: dict[str, Callable[[Tensor], Linear]] = {"float32": lambda weight: packed_linear(weight, torch.float32)}
    if "fbgemm" in torch.backends.quantized.supported_engines:
        found["float16"] = lambda weight: packed_linear(weight, torch.float16)
        if hasattr(torch, "quantize_per_channel"):  # which torch 2.13 deprecates
            found["int8"] = int8_linear
    if has_bf16("cpu"):
        found |= {"bfloat16": lambda weight: packed_linear(weight, torch.bfloat16), "split bfloat16": split_linear}
    return found


def int8_linear(weight: Tensor) -> Linear:
    """Weights in 8 bits with a scale for each output; inputs in 8 bits with one scale for all."""
    scales = weight.abs().amax(1) / 127
    zeros = torch.zeros(len(weight), dtype=torch.int64)
    packed = torch.ops.quantized.linear_prepack(
        torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8),
        None,
    )
    return lambda x: torch.ops.quantized.linear_dynamic(x, packed, True)


def split_linear(weight: Tensor) -> Linear:
    """Float32 products by bfloat16 ones (arXiv 1904.06376), for weights that bfloat16 holds: 17 bits are right.

    Inputs are a sum of two bfloat16 terms. OneDNN rounds what it returns to bfloat16, so a third product finds what was
    rounded off.
    """
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16(), 16)
    plain, binary = torch.ops.mkldnn._linear_pointwise, torch.ops.mkldnn._linear_pointwise.binary

    def linear(x: Tensor) -> Tensor:
        high = x.bfloat16()
        y, of_low = plain(torch.cat([high, (x - high).bfloat16()]), packed, None, "none", [], "").chunk(2)
        return y.float() + (binary(high, y, packed, None, "sub") + of_low)

    return linear


if __name__ == "__main__":
    command(main, LinearsBenchOptions)
