"""The training loop. All randomness is a function of (seed, step), so interrupted runs end like others."""

import dataclasses
import gc
import json
import multiprocessing
import os
import platform
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import psutil
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from tokenizer.conv import ConvConfig
from tokenizer.image_tokenizer import ImageTokenizer, ImageTokenizerConfig, to_float
from tokenizer.parts import BackboneConfig
from tokenizer.quantizers import CosineVQConfig
from tokenizer.vit import ViTConfig
from training import meter, trainer
from training.batches import Batch, batch_indices
from training.errors import BadInput
from training.files import write_tensors
from training.optimizer import optimizer_for
from training.options import OptimizerConfig, TrainingConfig
from training.processes import Signals
from training.run import RunFolder
from training.task import Loss, Task
from training.trainer import Trainer, accelerator_for

COUNT = 10
INPUTS = torch.randn(COUNT, 4, generator=torch.Generator().manual_seed(0))
PICTURES = torch.randint(0, 256, (COUNT, 3, 12, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
IMAGES = ImageTokenizerConfig(
    image_size=12,
    backbone=ViTConfig(patch_size=4, width=16, encoder_depth=1, decoder_depth=1, heads=2, pixel_width=4),
    quantizer=CosineVQConfig(size=20, dim=4),
)
SPEED = {"images_per_second", "tokens_per_second"}


@pytest.fixture(autouse=True)
def _fresh_accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Accelerate keeps its state per process, but each run here stands for a new process.

    One core is enough for such small models. With more they are slow when another training runs on the same machine.
    """
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def config(out: Path, **options: Any) -> TrainingConfig:
    defaults = {
        "data": "numbers", "out": str(out), "steps": 12, "batch_size": 4, "precision": "no", "log_every": 1,
        "sample_every": 0, "checkpoint_every": 5, "ema_length": 0.1, "optimizer": OptimizerConfig(warmup=2),
    }  # fmt: skip
    return TrainingConfig(**{**defaults, **options})


class Examples:
    """Numbers and their sums, or pictures."""

    origin: ClassVar[dict[str, Any]] = {"numbers": 1}

    def __init__(self, pictures: bool, noise: float) -> None:
        self.pictures, self.noise = pictures, noise

    def __len__(self) -> int:
        return COUNT

    def __call__(self, indices: NDArray[np.int64], generator: torch.Generator) -> Batch:
        if self.pictures:
            return {"images": PICTURES[indices]}
        x = INPUTS[indices]
        return {"x": x + self.noise * torch.randn(x.shape, generator=generator), "y": x.sum(1, keepdim=True)}


class Fitting(Task):
    """A linear model learns sums, or a real image tokenizer learns pictures.

    `at` is called with the number of each forward pass, `drawing` with the number of samples drawn before.
    """

    def __init__(
        self, model: nn.Module, config: TrainingConfig, at: Callable[[int], None], drawing: Callable[[int], None]
    ) -> None:
        super().__init__(model, config.optimizer, tokens=3)
        self.at, self.drawing, self.passes, self.samples = at, drawing, iter(range(10**6)), iter(range(10**6))

    def losses(self, batch: Batch, step: int) -> Iterator[Loss]:
        self.at(next(self.passes))
        model = self.modules["model"]
        if "images" in batch:
            images = to_float(batch["images"])
            made = model(images)
            error = (made.images - images).square().mean()
            yield Loss("model", error + made.losses["commitment"], {"commitment": made.losses["commitment"]})
        else:
            error = model(batch["x"]) - batch["y"]
            yield Loss("model", error.square().mean(), {"bias": error.mean()})

    def evaluate(self, average: nn.Module, file: Path) -> dict[str, float]:
        self.drawing(next(self.samples))
        file.write_bytes(b"png")
        return {"validation": next(average.parameters()).sum().item()}

    def export(self, average: nn.Module, folder: Path) -> None:
        write_tensors(folder / "model.safetensors", average.state_dict())


class Casting(Fitting):
    """Exports bfloat16, by changing the average itself, as real tasks do."""

    def export(self, average: nn.Module, folder: Path) -> None:
        super().export(average.bfloat16(), folder)


def fit(
    out: Path,
    *,
    pictures: bool = False,
    dropout: float = 0.0,
    noise: float = 0.0,
    at: Callable[[int], None] = lambda forward_pass: None,
    drawing: Callable[[int], None] = lambda drawn: None,
    task: Callable[..., Task] = Fitting,
    **options: Any,
) -> bool:
    """Trains a linear model or a real image tokenizer, as a `train.py` does."""
    resolved = config(out, **options)
    accelerator = accelerator_for(resolved)
    model = ImageTokenizer(IMAGES) if pictures else nn.Sequential(nn.Dropout(dropout), nn.Linear(4, 1))
    learning = task(model, resolved, at, drawing)
    try:
        return Trainer(learning, Examples(pictures, noise), RunFolder(resolved), accelerator).fit()
    finally:
        gc.collect()
        AcceleratorState._reset_state(reset_partial_state=True)


def log(out: Path) -> list[dict[str, Any]]:
    """The log without values that depend on the clock."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in SPEED} for line in lines]


def weights(out: Path) -> dict[str, Tensor]:
    return load_file(out / "model" / "model.safetensors")


def assert_same_run(one: Path, other: Path) -> None:
    assert log(one) == log(other)
    assert (one / "model/model.safetensors").read_bytes() == (other / "model/model.safetensors").read_bytes()


def fail_at(number: int) -> Callable[[int], None]:
    def at(forward_pass: int) -> None:
        if forward_pass == number:
            raise ZeroDivisionError

    return at


def test_it_learns_and_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(tmp_path, steps=60, optimizer=OptimizerConfig(warmup=2, learning_rate=0.1))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 61))
    assert lines[-1]["loss"] < 0.1 * lines[0]["loss"]
    assert (
        lines[0].keys() == {"step", "loss", "bias", "learning_rate", "grad_norm", "batch", "precision", "flops"} | SPEED
    )
    assert [line["flops"] for line in lines] == [64 * step for step in range(1, 61)]  # forward and for the weight
    assert lines[0]["tokens_per_second"] == pytest.approx(3 * lines[0]["images_per_second"])
    assert lines[0]["learning_rate"] == 0.05
    assert str(tmp_path / "model") in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000055", "step-00000060"]


def test_it_keeps_averages_that_are_the_models_of_those_steps(tmp_path: Path) -> None:
    """And keeping them changes nothing of the run, although the task's `export` may change what it is given."""
    for name, every in (("long", 4), ("plain", 0)):
        fit(tmp_path / name, steps=12, keep_every=every, dropout=0.3, task=Casting)
    assert_same_run(tmp_path / "long", tmp_path / "plain")
    assert not (tmp_path / "plain" / "averages").exists()
    kept = {path.name: path for path in (tmp_path / "long" / "averages").iterdir()}
    assert sorted(kept) == ["step-00000004", "step-00000008", "step-00000012"]
    assert [json.loads((kept[name] / "training.json").read_text())["steps"] for name in sorted(kept)] == [4, 8, 12]
    last, model = (path / "model.safetensors" for path in (kept["step-00000012"], tmp_path / "long" / "model"))
    assert last.read_bytes() == model.read_bytes()
    checkpoint = load_file(tmp_path / "long" / "checkpoints" / "step-00000012" / "average.safetensors")
    assert all(torch.equal(load_file(last)[name], tensor.bfloat16()) for name, tensor in checkpoint.items())


def test_the_same_seed_is_the_same_run_and_another_is_not(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        fit(tmp_path / name, seed=seed, dropout=0.3, noise=0.1)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert not {line["batch"] for line in log(tmp_path / "a")} & {line["batch"] for line in log(tmp_path / "c")}


@pytest.mark.parametrize("log_every", [1, 4])
@pytest.mark.parametrize("pictures", [False, True])
def test_a_killed_run_resumes_exactly(tmp_path: Path, log_every: int, pictures: bool) -> None:
    """With a log line every 4 steps and a checkpoint every 5, the first line after resuming averaged over fewer
    steps."""
    options: dict[str, Any] = {
        "pictures": pictures, "dropout": 0.2, "noise": 0.1, "log_every": log_every, "sample_every": 3,
    }  # fmt: skip
    fit(tmp_path / "straight", **options)
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path / "died", at=fail_at(8), **options)
    assert max(line["step"] for line in log(tmp_path / "died")) == 8
    fit(tmp_path / "died", **options)
    assert_same_run(tmp_path / "straight", tmp_path / "died")


def test_a_finished_run_given_again_only_exports_again(tmp_path: Path) -> None:
    fit(tmp_path)
    before, weights_before = log(tmp_path), weights(tmp_path)
    assert fit(tmp_path, at=fail_at(0))
    assert log(tmp_path) == before
    assert all(torch.equal(weights_before[name], tensor) for name, tensor in weights(tmp_path).items())


def test_more_steps_continue_a_finished_run(tmp_path: Path) -> None:
    fit(tmp_path)
    fit(tmp_path, steps=14)
    assert [line["step"] for line in log(tmp_path)] == list(range(1, 15))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(tmp_path: Path, number: int, capsys: pytest.CaptureFixture[str]) -> None:
    def at(forward_pass: int) -> None:
        if forward_pass == 6:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    fit(tmp_path / "straight", dropout=0.2)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "stopped", dropout=0.2, at=at)
    assert signal.getsignal(number) == before
    assert "stopped after step 7; give the same command again to resume" in capsys.readouterr().out
    assert (tmp_path / "stopped" / "checkpoints" / "step-00000007").is_dir()
    assert not (tmp_path / "stopped" / "model").exists()
    fit(tmp_path / "stopped", dropout=0.2)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_change_nothing(tmp_path: Path) -> None:
    for workers in (0, 2):
        fit(tmp_path / str(workers), workers=workers, noise=0.1, accumulation=2)
    assert_same_run(tmp_path / "0", tmp_path / "2")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_ignore_signals(tmp_path: Path, number: int) -> None:
    """Ctrl-C in a terminal and SIGTERM from a scheduler reach the workers too. They ended, and the trainer, which still
    needed their batches, ended with a `RuntimeError` and without a checkpoint."""

    def at(forward_pass: int) -> None:
        if forward_pass == 14:
            for process in (*psutil.Process().children(), psutil.Process()):
                process.send_signal(number)

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, workers=1, accumulation=12, batch_size=12, at=at)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_workers_end_with_the_trainer(tmp_path: Path) -> None:
    """At its end, Python sends SIGTERM to the workers and waits: for ever, because they ignore it."""
    with pytest.raises(ZeroDivisionError) as failed:  # whose traceback holds the loader
        fit(tmp_path, workers=1, at=fail_at(3))
    assert failed.traceback
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulation_is_the_same_batch_in_parts(tmp_path: Path, accumulation: int) -> None:
    fit(tmp_path / "whole")
    fit(tmp_path / "parts", accumulation=accumulation)
    for whole, parts in zip(log(tmp_path / "whole"), log(tmp_path / "parts"), strict=True):
        assert parts["batch"] == whole["batch"]
        assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-5)
        assert parts["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-5)
    for name, tensor in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "parts")[name], tensor, rtol=1e-4, atol=1e-5)


def test_the_logged_batch_is_the_one_seen(tmp_path: Path) -> None:
    import zlib

    fit(tmp_path, seed=3, steps=4)
    for step, line in enumerate(log(tmp_path)):
        indices = batch_indices(step, count=COUNT, batch_size=4, seed=3)
        assert line["batch"] == f"{zlib.crc32(indices.tobytes()):08x}"


def test_a_compiled_model_trains_alike_and_counts_its_operators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with `accelerate launch --dynamo_backend ...`. The backend `eager` compiles without changing anything."""
    fit(tmp_path / "plain", steps=4)
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    AcceleratorState._reset_state(reset_partial_state=True)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    fit(tmp_path / "compiled", steps=4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    assert_same_run(tmp_path / "plain", tmp_path / "compiled")
    assert log(tmp_path / "compiled")[-1]["flops"] > 0


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not fit(tmp_path / "run", dry_run=True, cache=tmp_path / "cache", at=fail_at(0))
    printed = capsys.readouterr().out
    assert "batch_size: 4" in printed
    assert f"cache: {tmp_path / 'cache'}" in printed
    assert "0.0 M parameters, 10 examples, a batch: x (4, 4) torch.float32, y (4, 1) torch.float32" in printed
    assert list(tmp_path.iterdir()) == []


def test_only_the_main_process_prints_a_dry_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Accelerator, "is_main_process", False)
    assert not fit(tmp_path, dry_run=True)
    assert "batch_size" not in capsys.readouterr().out


@pytest.mark.parametrize("log_every", [1, 4])
def test_speed_leaves_out_checkpoints_and_samples(
    log_every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record's seconds are said to be of training only, but had the checkpoints' in them. And they lacked the time
    of the steps between a log line and a sample that was drawn before the next line."""
    clock = [0.0]
    monkeypatch.setattr(meter, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def takes(seconds: float) -> Callable[..., None]:
        return lambda *_, **__: clock.__setitem__(0, clock[0] + seconds)

    monkeypatch.setattr(trainer.checkpoint, "save", takes(100))
    every: dict[str, Any] = {"log_every": log_every, "checkpoint_every": log_every, "sample_every": 1}
    fit(tmp_path, steps=4, at=takes(2), drawing=takes(30), **every)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["images_per_second"] for line in lines if "loss" in line] == 4 // log_every * [4 / 2]


def test_one_process_asks_no_device_whether_to_stop() -> None:
    """It copied a flag to the GPU and back in every step, and so waited for the step to be done."""
    signals = Signals(SimpleNamespace(num_processes=1))  # type: ignore[arg-type]
    with signals.caught():
        assert signals.poll() == (False, 0.0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.poll() == (True, 0.0)


def test_a_loss_that_is_not_a_number_stops_before_it_is_saved(tmp_path: Path) -> None:
    rate = OptimizerConfig(learning_rate=1e30, warmup=0, clip=1e30)
    with pytest.raises(BadInput, match=r"by step \d+ the loss is (nan|inf) and .*: start a new run in another"):
        fit(tmp_path, steps=50, checkpoint_every=3, log_every=50, optimizer=rate)
    for folder in (tmp_path / "checkpoints").glob("*"):
        assert all(tensor.isfinite().all() for tensor in load_file(folder / "model.safetensors").values())


def test_a_gradient_that_is_not_finite_stops_before_it_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint contained weights of nan. The next batch did not use them, so its loss looked fine."""
    real, calls = Accelerator.clip_grad_norm_, iter(range(1, 100))

    def clip(*arguments: Any) -> Tensor:
        norm = real(*arguments)
        return norm * float("inf") if next(calls) == 4 else norm

    monkeypatch.setattr(Accelerator, "clip_grad_norm_", clip)
    with pytest.raises(BadInput, match=r"by step 6 the loss is [0-9.]+ and .* norm inf: start a new run"):
        fit(tmp_path, checkpoint_every=3, log_every=50)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]


def test_fewer_steps_than_are_done_are_refused(tmp_path: Path) -> None:
    """The run counted as finished, and its model was exported as that of an earlier step."""
    fit(tmp_path)
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(BadInput, match=r"is at step 12 already; give --steps 12 or more, or another --out"):
        fit(tmp_path, steps=10)
    assert (tmp_path / "config.json").read_text() == before


def test_samples_interrupted_by_a_kill_are_drawn_again(tmp_path: Path) -> None:
    """The checkpoint was saved first, so the resumed run continued without the samples."""

    def killed(step: int) -> None:
        if step == 1:
            raise ZeroDivisionError

    options: dict[str, Any] = {"sample_every": 5, "dropout": 0.2}
    fit(tmp_path / "straight", **options)
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path / "killed", drawing=killed, **options)
    fit(tmp_path / "killed", **options)
    assert [line["step"] for line in log(tmp_path / "killed") if "validation" in line] == [5, 10, 12]
    assert_same_run(tmp_path / "straight", tmp_path / "killed")


def test_a_run_resumes_in_another_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run from a machine with bf16 was refused on one without, although it can resume there in float32."""
    monkeypatch.setattr(trainer, "has_bf16", lambda device: True)
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path / "run", precision="auto", at=fail_at(8))
    monkeypatch.setattr(trainer, "has_bf16", lambda device: False)
    fit(tmp_path / "run", precision="auto")
    assert "resumes from step 5 in precision no; it was bf16 before" in capsys.readouterr().out
    assert [line["precision"] for line in log(tmp_path / "run")] == 5 * ["bf16"] + 7 * ["no"]
    assert json.loads((tmp_path / "run/model/training.json").read_text())["precision"] == "bf16, then no"
    assert json.loads((tmp_path / "run/config.json").read_text())["precision"] == "auto"


def test_muon_trains_only_weight_matrices() -> None:
    """It also trained the modulation tables of a diffusion transformer, whose six rows are unrelated."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.zeros(6, 8))
            self.linear = nn.Linear(8, 4)

    model = nn.ModuleDict({"blocks": nn.ModuleList([Block()])})
    optimizer = optimizer_for(model, OptimizerConfig(muon_learning_rate=0.02))
    shapes = [[tuple(p.shape) for p in group["params"]] for group in optimizer.param_groups]
    assert shapes == [[(6, 8)], [(4,)], [(4, 8)]]
    with pytest.warns(UserWarning, match="muon_learning_rate has no effect: AdamW trains Linear, which has no blocks"):
        optimizer_for(nn.Linear(8, 4), OptimizerConfig(muon_learning_rate=0.02))


CONV = ConvConfig(channels=4, multipliers=(1, 2, 2), attention=(2,), encoder_blocks=1, decoder_blocks=1, width=16)
FRAME = {"quantizer.project_in", "quantizer.project_out", "encoder.transformer.rows", "encoder.transformer.columns",
         "decoder.transformer.rows", "decoder.transformer.columns"}  # fmt: skip


@pytest.mark.parametrize(
    ("backbone", "ends"),
    [
        (IMAGES.backbone, {"encoder.embed", "decoder.unembed", "decoder.head.0", "decoder.head.2"}),
        (CONV, {"encoder.first", "encoder.last.2", "decoder.first", "decoder.last.2"}),
    ],
)
def test_muon_leaves_first_and_last_layers_to_adamw(backbone: BackboneConfig, ends: set[str]) -> None:
    """It left all convolutions to AdamW."""
    model = ImageTokenizer(dataclasses.replace(IMAGES, backbone=backbone))
    optimizer = optimizer_for(model, OptimizerConfig(muon_learning_rate=0.02))
    by_muon = {id(p) for group in optimizer.param_groups if group["muon"] for p in group["params"]}
    matrices = {name.removesuffix(".weight"): p for name, p in model.named_parameters() if p.ndim >= 2}
    assert {name for name, p in matrices.items() if id(p) not in by_muon} - FRAME == ends


@pytest.mark.parametrize("warmup", [2, 3])
def test_a_run_that_is_all_warm_up_says_so(warmup: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A trial of few steps learned little, and did not say why."""
    fit(tmp_path, steps=3, optimizer=OptimizerConfig(warmup=warmup))
    assert ("all 3 steps are warm-up" in capsys.readouterr().out) == (warmup == 3)


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="batch_size 4 cannot be divided among 1 processes times 3 accumulation steps"):
        fit(tmp_path, accumulation=3)


def test_cores_are_shared_whatever_the_launcher_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3})
    torch.set_num_threads(1)
    accelerator_for(config(tmp_path))
    assert torch.get_num_threads() == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    accelerator_for(config(tmp_path))
    assert torch.get_num_threads() == 2


def test_cores_are_counted_without_sched_getaffinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS lacks it, so no trainer started there."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    accelerator_for(config(tmp_path))
    assert torch.get_num_threads() == 3


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_freed_memory_is_used_again_without_asking_the_kernel(tmp_path: Path) -> None:
    def page_faults_of_a_step() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(20_000_000).exp_()  # 80 MB, which glibc would not keep by itself
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    accelerator_for(config(tmp_path))
    faults = [page_faults_of_a_step() for _ in range(20)]
    assert faults[-1] < 1000  # 19,532 pages; in the first steps the heap grows, until a block fits in a gap


def test_processes_that_would_train_alone_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`accelerate launch --cpu` on a machine with an accelerator, which `Accelerator()` then uses."""
    alone = SimpleNamespace(num_processes=1, device=torch.device("cuda"))
    monkeypatch.setattr(trainer, "Accelerator", lambda **_: alone)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadInput, match="started 2 processes but Accelerate joined 1; each would train alone"):
        accelerator_for(config(tmp_path))


@pytest.mark.timeout(400)
def test_two_processes_train_as_one(launch: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """A real image tokenizer, whose codebook follows sums over all processes.

    The run is stopped by a signal to the second process, resumed, and paused by stopping its launcher.
    """

    def start(*arguments: object) -> tuple[int, str, str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = ["--multi_gpu", "--num_processes", "2", "--main_process_port", str(port)]  # on CPUs too
        launcher = launch(Path(__file__), tmp_path / "two", *arguments, options=options)
        said, errors = launcher.communicate(timeout=150)
        return launcher.returncode, said, errors

    code, said, errors = start("stop")
    assert code != 0
    assert "stopped after step 8; give the same command again to resume" in said, errors
    code, said, errors = start("pause")
    assert code == 0, errors
    assert said.count("the model is in") == 1
    assert re.search(r"2 s later it was at pass [01], then it went on", said)  # of 4
    fit(tmp_path / "one", pictures=True)
    for two, one in zip(log(tmp_path / "two"), log(tmp_path / "one"), strict=True):
        assert two["batch"] == one["batch"]
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
        assert two["commitment"] == pytest.approx(one["commitment"], rel=1e-2)
    one_weights, two_weights = weights(tmp_path / "one"), weights(tmp_path / "two")
    codebook = "quantizer._codebook.cluster_size"
    torch.testing.assert_close(two_weights[codebook], one_weights[codebook], rtol=1e-3, atol=1e-3)


def signal_the_second(forward_pass: int) -> None:
    if forward_pass == 7 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)


def pause_the_launcher(forward_pass: int) -> None:
    """The first process stops its launcher in pass 0. The launcher continues 2 seconds later."""
    passes.append(forward_pass)
    launcher = os.getppid()

    def go_on() -> None:
        print(f"2 s later it was at pass {passes[-1]}, then it went on", flush=True)
        os.kill(launcher, signal.SIGCONT)

    if forward_pass == 0 and os.environ["RANK"] == "0":
        os.kill(launcher, signal.SIGSTOP)
        threading.Timer(2, go_on).start()


passes: list[int] = []

if __name__ == "__main__":  # one of the two processes
    what = {"stop": signal_the_second, "pause": pause_the_launcher}
    fit(Path(sys.argv[1]), pictures=True, at=what[sys.argv[2]])


def test_a_run_with_muon_resumes_exactly(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "pictures": True, "optimizer": OptimizerConfig(warmup=2, muon_learning_rate=0.02),
    }  # fmt: skip
    fit(tmp_path / "whole", **options)
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path / "stopped", at=fail_at(8), **options)
    fit(tmp_path / "stopped", **options)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    fit(tmp_path / "adamw", pictures=True, optimizer=OptimizerConfig(warmup=2))
    assert log(tmp_path / "adamw")[-1]["loss"] != log(tmp_path / "whole")[-1]["loss"]
