"""The benchmark of training steps, and the script for GPU machines that runs it."""

import subprocess
from pathlib import Path

import pytest
import torch

from seq2seq import bench
from seq2seq.bench import TrainingBenchOptions, main, step_cost
from seq2seq.model import TokenModelConfig
from training.command_line import parse

ROOT = Path(__file__).parents[1]


def test_it_prints_speed_and_share(capsys: pytest.CaptureFixture[str]) -> None:
    main(parse(TrainingBenchOptions, ["--shape", "debug", "--batch", "2", "--steps", "1", "--compiled", "false"]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("TFLOP/s in large bfloat16 matrix products")
    assert [line.split(": ")[0] for line in lines[1:]] == [
        "debug, 2 pictures, as written",
        "debug, 1 pictures, as written",
    ]


def test_the_compiled_model_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it leaves in memory counted for the variant after it."""
    timed = []
    monkeypatch.setattr(bench, "matmul_flops", lambda device: 1.0)
    monkeypatch.setattr(
        bench,
        "step_cost",
        lambda config, batch, device, steps, compiled: timed.append((batch, compiled)) or (1.0, 1, 1),
    )
    main(TrainingBenchOptions(shape="debug", batch=2))
    assert timed == [(2, False), (1, False), (2, True)]


def test_operations_of_a_step_are_counted() -> None:
    """Forward and backward are three products of two matrices for each weight and position; attention adds a little."""
    config = TokenModelConfig(
        width=32, mlp_width=64, heads=2, encoder_depth=1, decoder_depth=1, text_vocab_size=9, text_length=4,
        codebook_size=20, grid=2, dropout=0.0,
    )  # fmt: skip
    _, flops, memory = step_cost(config, 3, torch.device("cpu"), 1, compiled=False)
    encoder, cross = 32 * 32 * 4 + 2 * 32 * 64, 2 * 32 * 32
    decoder = 32 * 32 * 6 + 2 * 32 * 64 + 32 * 21
    products = 6 * 3 * (4 * (encoder + cross) + 5 * decoder)
    assert products < flops < 1.3 * products
    assert memory == 0


def test_the_script_for_gpu_machines_is_valid() -> None:
    for script in (ROOT / "benchmarks").glob("*.sh"):
        subprocess.run(["bash", "-n", script], check=True)
