"""One way to choose a device: all options have `auto`, and a device that is not there is refused in one line."""

import dataclasses
import importlib
import re
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from sampling.bench import BenchOptions
from training import device, trainer
from training.device import usable_device, with_device
from training.errors import BadInput
from training.options import TrainingConfig
from training.trainer import accelerator_for

ROOT = Path(device.__file__).parents[1]
ROOMS = ("commands", "data", "diffusion", "evaluation", "sampling", "seq2seq", "tokenizer", "training")
MODULES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for room in ROOMS
    for file in sorted((ROOT / room).rglob("*.py"))
    if re.search(r'^    device: .* = .*\n    """', file.read_text(encoding="utf-8"), re.M)
]
"""Those with options that have a device."""


def test_modules_are_found() -> None:
    assert {"data.cleaning.captioner", "evaluation.harness", "sampling.drawing", "training.options"} <= {*MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_every_device_is_auto_by_default(module: str) -> None:
    found = [
        field.default
        for one in vars(importlib.import_module(module)).values()
        if dataclasses.is_dataclass(one) and one.__module__ == module
        for field in dataclasses.fields(one)
        if field.name == "device"
    ]
    assert found
    assert {*found} == {"auto"}


@pytest.mark.parametrize("there", [None, "cuda", "mps"])
def test_auto_is_the_best_device_here(monkeypatch: pytest.MonkeyPatch, there: str | None) -> None:
    found = torch.device(there) if there else None
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: found)
    assert usable_device("auto") == torch.device(there or "cpu")
    assert with_device(BenchOptions(width=64)).device == (there or "cpu")
    assert with_device(BenchOptions(device="cpu")).device == "cpu"


@pytest.mark.parametrize("name", ["cuda:99", "cpu:1", "nonsense", "meta", "cuda:x", ""])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match=r"^device '.*' cannot be used here \(.+\); use another, such as 'cpu'$"):
        usable_device(name)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="here is a GPU")
@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_trainer_does_not_take_the_cpu_for_a_gpu(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=f"device '{name}' cannot be used here .* finds none of this kind"):
        accelerator_for(TrainingConfig(data="", out=str(tmp_path), steps=1, device=name))  # type: ignore[arg-type]


@pytest.mark.parametrize("by_launcher", [False, True])
def test_a_trainer_takes_the_cpu_beside_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_launcher: bool
) -> None:
    """With `accelerate launch --cpu`, it took the GPU's precision: bfloat16, which many CPUs emulate very slowly."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(trainer, "has_bf16", lambda device_type: device_type == "cuda")
    monkeypatch.setenv("ACCELERATE_USE_CPU", str(by_launcher))
    AcceleratorState._reset_state(reset_partial_state=True)
    threads = torch.get_num_threads()
    try:
        device = "auto" if by_launcher else "cpu"
        found = accelerator_for(TrainingConfig(data="", out=str(tmp_path), steps=1, device=device))  # type: ignore[arg-type]
        assert (found.device.type, found.mixed_precision) == ("cpu", "no")
    finally:
        torch.set_num_threads(threads)
        AcceleratorState._reset_state(reset_partial_state=True)
