"""Times training steps of a preset's model with random pictures: `python -m seq2seq.bench --shape parti-350m`.

It prints pictures a second, floating-point operations a second as counted, their share of what large matrix products
reach on the same device (model FLOP utilisation), and peak memory: as written, at half the batch, and compiled.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from seq2seq.loss import token_loss
from seq2seq.model import TokenModel, TokenModelConfig
from seq2seq.options import TokenTrainingConfig
from training.cli import command
from training.config import from_dict, require
from training.device import with_device
from training.optimizer import optimizer_for
from training.options import OptimizerConfig
from training.presets import preset
from training.processes import set_up_cpu
from training.record import flop_counter
from training.strict_yaml import read_yaml

_WARM_UP = 3
"""Steps that are not timed."""


@dataclass(frozen=True, kw_only=True)
class TrainingBenchOptions:
    """Times training steps of the token model, forward, backward and optimizer, in bfloat16."""

    shape: str = "parti-350m"
    """Preset of the token model's trainer: a name or a YAML file. Only its `model` counts."""
    batch: int = 16
    """Pictures a step."""
    steps: int = 6
    """Timed steps; the median counts."""
    compiled: bool = True
    """Time the compiled model too."""
    device: str = "auto"
    """Device to compute on: `auto` (a GPU if there is one), `cpu`, `cuda`, `mps`, or another of torch's."""

    def __post_init__(self) -> None:
        for name in ("batch", "steps"):
            require(self, name, getattr(self, name) >= 1, "1 or more")


def main(options: TrainingBenchOptions) -> None:
    """Times each variant and prints a line for it."""
    options = with_device(options)
    set_up_cpu()
    device = torch.device(options.device)
    settings = read_yaml(preset(TokenTrainingConfig, options.shape))
    config = from_dict(TokenModelConfig, settings.get("model", {}), "model")
    peak = matmul_flops(device)
    print(f"{peak / 1e12:.1f} TFLOP/s in large bfloat16 matrix products")
    # compiled last: what the compiler keeps in memory is no other variant's
    for batch, compiled in ((options.batch, False), (max(1, options.batch // 2), False), (options.batch, True)):
        if compiled and not options.compiled:
            continue
        seconds, flops, memory = step_cost(config, batch, device, options.steps, compiled)
        print(
            f"{options.shape}, {batch} pictures, {'compiled' if compiled else 'as written'}: "
            f"{batch / seconds:.1f} pictures/s, {flops / seconds / 1e12:.2f} TFLOP/s, "
            f"{flops / seconds / peak:.0%} of these, peak memory {memory / 1e9:.1f} GB"
        )


def step_cost(
    config: TokenModelConfig, batch: int, device: torch.device, steps: int, compiled: bool
) -> tuple[float, int, int]:
    """Seconds of a training step, its floating-point operations, and on a GPU the peak memory in bytes, else 0."""
    torch.manual_seed(0)
    model = TokenModel(config).to(device).train()
    optimizer = optimizer_for(model, OptimizerConfig())
    text = torch.randint(4, config.text_vocab_size, (batch, config.text_length), device=device)
    tokens = torch.randint(config.codebook_size, (batch, config.length), device=device)
    with (counter := flop_counter()):
        _step(model, optimizer, text, tokens, config.eos)
    run: Callable[..., Tensor] = torch.compile(model) if compiled else model
    times = []
    for i in range(_WARM_UP + steps):
        if i == _WARM_UP and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        began = time.perf_counter()
        _step(run, optimizer, text, tokens, config.eos)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        times.append(time.perf_counter() - began)
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return statistics.median(times[_WARM_UP:]), counter.get_total_flops(), memory


def matmul_flops(device: torch.device) -> float:
    """Floating-point operations a second in the best of ten products of large bfloat16 matrices."""
    n = 8192 if device.type == "cuda" else 1024
    a, times = torch.randn(n, n, device=device).bfloat16(), []
    for _ in range(10):
        began = time.perf_counter()
        a @ a
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        times.append(time.perf_counter() - began)
    return 2 * n**3 / min(times)


def _step(run: Callable[..., Tensor], optimizer: torch.optim.Optimizer, text: Tensor, tokens: Tensor, eos: int) -> None:
    with torch.autocast(text.device.type, torch.bfloat16):
        loss, _ = token_loss(run(text, tokens), tokens, eos)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad()


if __name__ == "__main__":
    command(main, TrainingBenchOptions)
