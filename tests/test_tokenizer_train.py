"""`accelerate launch tokenizer/train.py`: if it is killed or stopped, and started again, the result is the same."""

import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from torch import nn

from data.source import open_source
from tokenizer.batches import PictureBatches
from tokenizer.image_tokenizer import ImageTokenizer
from tokenizer.options import TokenizerTrainingConfig
from tokenizer.train import main
from training.cli import command
from training.trainer import Trainer

ROOT = Path(__file__).parents[1]
STEPS = 300  # from about step 230 on, unused codes are replaced at random
FLAGS = {
    "--steps": STEPS, "--batch_size": 4, "--log_every": 1, "--checkpoint_every": 15, "--sample_every": 150,
    "--task.perceptual": 0, "--optimizer.warmup": 5, "--model.image_size": 16, "--model.backbone.kind": "vit",
    "--model.backbone.patch_size": 8, "--model.backbone.width": 16, "--model.backbone.encoder_depth": 1,
    "--model.backbone.decoder_depth": 1, "--model.backbone.heads": 2, "--model.backbone.pixel_width": 4,
    "--model.quantizer.size": 32, "--model.quantizer.dim": 4,
}  # fmt: skip

Train = Callable[..., int]
Launch = Callable[..., subprocess.Popen[str]]


@pytest.fixture(autouse=True)
def _fresh_accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Accelerate keeps one state per process. Here each run behaves like a new process, on one core."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def flags(photos: Path, tmp_path: Path) -> list[str]:
    values = {"--data": photos, "--cache": tmp_path / "cache", **FLAGS}
    return [str(part) for pair in values.items() for part in pair]


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, flags: list[str]) -> Train:
    """Run the trainer in this process; return its exit code."""

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["tokenizer/train.py", *flags, *map(str, arguments)])
        try:
            command(main, TokenizerTrainingConfig)
        except SystemExit as left:
            return left.code
        finally:
            gc.collect()
            AcceleratorState._reset_state(reset_partial_state=True)
        return 0

    return run


@pytest.fixture
def launched(launch: Launch, flags: list[str]) -> Launch:
    """Start the trainer as the README does, on one core, so that its sums equal those of runs in this process."""

    def start(out: Path) -> subprocess.Popen[str]:
        launcher = launch(ROOT / "tokenizer" / "train.py", *flags, "--out", out)
        psutil.Process(launcher.pid).cpu_affinity(psutil.Process().cpu_affinity()[:1])
        return launcher

    return start


def trainer_at(step: int, launcher: subprocess.Popen[str], out: Path) -> psutil.Process:
    """Wait until the trainer, the launcher's child, has logged `step`; return its process, suspended."""
    deadline = time.monotonic() + 200
    while last_step(out) < step:
        assert launcher.poll() is None, launcher.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    (trainer,) = psutil.Process(launcher.pid).children()
    trainer.suspend()
    return trainer


def last_step(out: Path) -> int:
    file = out / "log.jsonl"
    return file.read_text().count('"loss"') if file.exists() else 0


def log(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.endswith("_per_second")} for line in lines]


@pytest.mark.timeout(600)
def test_a_run_that_is_killed_and_stopped_gives_the_same_result(
    train: Train, launched: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compares a run without interruption to one that is killed, refused twice, stopped, and finished."""
    straight, out = tmp_path / "straight", tmp_path / "out"
    assert train("--out", straight) == 0
    capsys.readouterr()

    launcher = launched(out)
    trainer = trainer_at(37, launcher, out)
    assert train("--out", out) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {out}: another command is at work")
    trainer.kill()
    launcher.communicate(timeout=100)
    assert launcher.returncode != 0
    assert 37 <= last_step(out) < STEPS
    assert not (out / "model").exists()
    assert train("--out", out, "--batch_size", "2") == 2
    assert "batch_size: 4 there, 2 here" in capsys.readouterr().err.splitlines()[-1]

    launcher = launched(out)
    trainer = trainer_at(93, launcher, out)
    trainer.send_signal(signal.SIGTERM)
    trainer.resume()
    said, _ = launcher.communicate(timeout=100)
    assert launcher.returncode != 0  # so that a script does not run its next command
    stopped = last_step(out)
    assert 93 <= stopped < STEPS
    assert f"stopped after step {stopped}; give the same command again to resume" in said
    assert (out / "checkpoints" / f"step-{stopped:08d}").is_dir()

    launcher = launched(out)
    said, errors = launcher.communicate(timeout=200)
    assert launcher.returncode == 0, errors
    assert f"trained {STEPS} steps; the model is in {out / 'model'}" in said

    assert log(out) == log(straight)
    weights = "model/model.safetensors"
    assert (out / weights).read_bytes() == (straight / weights).read_bytes()
    assert not [path for path in out.rglob(".*") if path.name not in (".lock", ".tessera")]


def test_the_files_of_a_run(train: Train, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train("--out", out, "--steps", "12", "--sample_every", "6", "--precision", "no") == 0
    model = ImageTokenizer.from_pretrained(out / "model")
    assert ImageTokenizer.from_pretrained(out / "model", dtype=None).encoder.embed.weight.dtype == torch.bfloat16
    assert model.config.quantizer.size == 32
    assert not torch.equal(model.latent_std, torch.ones(4))
    lines = log(out)
    trained = [line for line in lines if "loss" in line]
    assert [line["step"] for line in trained] == list(range(1, 13))
    assert trained[0].keys() == {
        "step", "loss", "l1", "l2", "commitment", "psnr", "usage", "perplexity", "learning_rate", "grad_norm", "batch",
        "flops", "precision",
    }  # fmt: skip
    assert [line["step"] for line in lines if "validation_psnr" in line] == [6, 12]
    assert {path.name for path in (out / "samples").iterdir()} == {"step-00000006.png", "step-00000012.png"}
    with Image.open(out / "samples" / "step-00000012.png") as sheet:
        assert sheet.size == (4 * 136 + 8, 2 * 136 + 8)  # four originals above their reconstructions
    assert json.loads((out / "config.json").read_text())["data"] == str(photos)


def test_init_loads_the_given_weights(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the codebook: its vectors are those of the other run, and are not initialised from the first batch."""
    assert train("--out", tmp_path / "first", "--steps", "4") == 0
    init = tmp_path / "first" / "model"
    given = ImageTokenizer.from_pretrained(init).state_dict()
    seen: list[nn.Module] = []
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", lambda trainer: seen.append(trainer.task.modules["model"]))
        assert train("--out", tmp_path / "second", "--init", init) == 0
    assert all(torch.equal(tensor, given[name]) for name, tensor in seen[0].state_dict().items())
    assert given["quantizer._codebook.initted"].item()
    assert train("--out", tmp_path / "third", "--init", init, "--model.backbone.width", "32") == 2
    assert "not a model to start from (backbone.width: 16 there, 32 here)" in capsys.readouterr().err


def test_a_dry_run_writes_no_run(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--out", tmp_path / "run", "--dry_run") == 0
    said = capsys.readouterr().out
    assert "kind: cosine-vq\n    size: 32" in said
    assert "20 examples, a batch: images (4, 3, 16, 16) torch.uint8" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "0"], "TokenizerTrainingConfig.steps is 0: must be 1 or more"),
        (["--model.backbone.patch_size", "5"], "image_size is 16: must be a multiple of 5, the pixels a code"),
        (["--accumulation", "3"], "batch_size 4 cannot be divided"),
        (["--data", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--precision", "fp8"], "must be one of 'auto', 'no', 'bf16'"),
        (["--model.image_size", "8"], "size is 8: pictures can be 16 to 1024 pixels wide"),
    ],
)
def test_bad_input_is_one_line(
    train: Train, tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--out", tmp_path / "run", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_one_line(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert train("--out", out, "--steps", "3", "--sample_every", "0") == 0
    file = out / "checkpoints" / "step-00000003" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    capsys.readouterr()
    assert train("--out", out, "--steps", "5", "--sample_every", "0") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {file.parent}: a damaged checkpoint")


def test_batches_can_be_pickled_for_the_workers_of_a_data_loader(photos: Path, tmp_path: Path) -> None:
    splits = ("train", "validation")
    pictures, validation = (open_source(photos, size=16, split=split, cache=tmp_path) for split in splits)
    batches = PictureBatches(pictures, validation)
    first, again = (
        make(np.arange(6), torch.Generator().manual_seed(1))["images"]
        for make in (batches, pickle.loads(pickle.dumps(batches)))
    )
    assert first.shape == (6, 3, 16, 16)
    assert torch.equal(first, again)
