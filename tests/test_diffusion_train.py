"""The diffusion trainer: it turns pictures into a bundle, and an interruption changes nothing in the result."""

import dataclasses
import gc
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from tiny_models import IMAGES, text_tokenizer
from torch import Tensor, nn

import diffusion.task
import training.task
from data.latents import LatentsInfo
from data.source import open_source
from data.store import Store
from diffusion import latents
from diffusion.model import DiffusionModel
from diffusion.options import DiffusionTrainingConfig
from diffusion.train import main
from sampling import load
from tokenizer.encode import EncodeOptions
from tokenizer.encode import main as encode
from tokenizer.image_tokenizer import ImageTokenizer
from training.command_line import parse
from training.errors import BadInput
from training.run import RunFolder
from training.trainer import Trainer

DEBUG = Path(__file__).parents[1] / "configs" / "diffusion" / "debug.yaml"
PICTURES = dataclasses.replace(IMAGES, image_size=16)
SPEED = {"images_per_second", "tokens_per_second"}


@pytest.fixture(autouse=True)
def _fresh_accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def parts(tmp_path: Path, photos: Path) -> list[str]:
    """The flags that name an image tokenizer, a text tokenizer and pictures."""
    torch.manual_seed(0)
    ImageTokenizer(PICTURES).save_pretrained(tmp_path / "tokenizer")
    text_tokenizer().save_pretrained(tmp_path / "text")
    return [
        "--tokenizer", str(tmp_path / "tokenizer"), "--text", str(tmp_path / "text"), "--data", str(photos),
        "--cache", str(tmp_path / "cache"),
    ]  # fmt: skip


def fit(out: Path, parts: list[str], *flags: str) -> None:
    """Run the debug preset with fewer steps."""
    short = [
        "--config", str(DEBUG), "--steps", "6", "--checkpoint_every", "2", "--log_every", "1", "--sample_every", "0",
        "--batch_size", "4",
    ]  # fmt: skip
    try:
        main(parse(DiffusionTrainingConfig, [*short, *parts, "--out", str(out), *flags]))
    finally:
        gc.collect()
        AcceleratorState._reset_state(reset_partial_state=True)


def log(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in SPEED} for line in lines]


def test_an_interrupted_run_gives_the_same_result(
    tmp_path: Path, parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(tmp_path / "straight", parts)
    real, calls = diffusion.task.diffusion_loss, iter(range(100))

    def failing(*arguments: Any) -> Tensor:
        if next(calls) == 4:
            raise ZeroDivisionError
        return real(*arguments)

    monkeypatch.setattr(diffusion.task, "diffusion_loss", failing)
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path / "stopped", parts)
    written = (tmp_path / "stopped/latents/train/latents.bin").stat().st_mtime_ns
    monkeypatch.setattr(diffusion.task, "diffusion_loss", real)
    fit(tmp_path / "stopped", parts)
    one, other = tmp_path / "straight", tmp_path / "stopped"
    assert log(one) == log(other)
    assert (one / "model/model.safetensors").read_bytes() == (other / "model/model.safetensors").read_bytes()
    assert (other / "latents/train/latents.bin").stat().st_mtime_ns == written  # encoded once
    assert all(weight.isfinite().all() for weight in load_file(one / "model/model.safetensors").values())
    assert log(one)[0]["loss"] == pytest.approx(1, abs=0.5)  # zero predicted: the variance of v

    bundle = load(other / "bundle")
    (picture,) = bundle.generate(["a quilt"])
    assert picture.shape == (3, 16, 16)
    with pytest.raises(BadInput, match="this bundle has no autoregressive part: train one with"):
        bundle.backend("autoregressive")


def test_it_stores_latents_of_the_pictures_and_draws_samples(tmp_path: Path, parts: list[str], photos: Path) -> None:
    fit(tmp_path / "run", parts, "--sample_every", "6", "--model.process.schedule", "flow",
        "--model.process.target", "velocity")  # fmt: skip
    store = Store(tmp_path / "run/latents/validation", LatentsInfo)
    tokenizer = ImageTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert store.info.latents_id == tokenizer.latents_id
    pictures = open_source(photos, size=16, split="validation", cache=tmp_path / "cache", limit=64)
    assert len(store) == len(pictures) == 4
    for i in range(4):
        torch.testing.assert_close(
            latents.latents(store, i), tokenizer.latents(pictures[i][None])[0], atol=5e-3, rtol=1e-3
        )
        assert store.captions(i) == pictures.captions(i)
    train = Store(tmp_path / "run/latents/train", LatentsInfo)
    assert latents.latents(train, 19, 1).shape == (4, 4, 4)
    assert (tmp_path / "run/samples/step-00000006.png").is_file()
    assert {"validation_loss", "validation_bits_per_dimension"} <= log(tmp_path / "run")[-1].keys()


def test_runs_can_share_latents(
    tmp_path: Path, parts: list[str], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each run encoded the same pictures again."""
    fit(tmp_path / "own", parts)
    words = ["--model", str(tmp_path / "tokenizer"), "--data", str(photos), "--views", "2", "--limit", "64",
             "--device", "cpu", "--cache", str(tmp_path / "cache")]  # fmt: skip
    encode(parse(EncodeOptions, [*words, "--latents", "true", "--out", str(tmp_path / "latents")]))
    shared = [*parts, "--data", str(tmp_path / "latents")]
    fit(tmp_path / "run", shared)
    assert not (tmp_path / "run" / "latents").exists()
    one, other = (tmp_path / name / "model" / "model.safetensors" for name in ("own", "run"))
    assert one.read_bytes() == other.read_bytes()
    encode(parse(EncodeOptions, [*words, "--out", str(tmp_path / "codes")]))
    with pytest.raises(BadInput, match="codes: holds codes, and not latents; `python"):
        fit(tmp_path / "none", [*parts, "--data", str(tmp_path / "codes")])
    with pytest.raises(BadInput, match=r"codes/origin.json: is there already and does not say what latents are of"):
        encode(parse(EncodeOptions, [*words, "--latents", "true", "--out", str(tmp_path / "codes")]))
    torch.manual_seed(1)
    ImageTokenizer(PICTURES).save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(BadInput, match="latents/train: the latents were made by image tokenizer"):
        fit(tmp_path / "none", shared)


def test_the_latents_of_a_run_are_not_replaced(tmp_path: Path, parts: list[str]) -> None:
    """A run that was started again with another seed replaced its latents before it was refused."""
    out = tmp_path / "run"
    fit(out, parts)
    store = Store(out / "latents/train", LatentsInfo)
    origin = json.loads((out / "data.json").read_text())
    assert origin["train"] == store.info.origin == {
        "latents_id": store.info.latents_id, "fingerprint": store.info.fingerprint, "views": 2, "seed": 0,
    }  # fmt: skip
    written = (out / "latents/train/latents.bin").stat().st_mtime_ns
    with pytest.raises(BadInput, match=r"holds a run on other data \(train.seed: 0 there, 1 here"):
        fit(out, parts, "--seed", "1")
    assert (out / "latents/train/latents.bin").stat().st_mtime_ns == written

    run = RunFolder(parse(DiffusionTrainingConfig, [*parts, "--out", str(tmp_path / "b"), "--steps", "1"]))
    run.lock()
    with pytest.raises(BadInput, match="another command is at work"):
        fit(tmp_path / "b", parts)
    assert {path.name for path in (tmp_path / "b").iterdir()} == {".lock", ".tessera"}


def test_evaluation_in_parts_covers_all_pictures(
    tmp_path: Path, parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 pictures at once took more memory than training, for pictures with many latents."""
    real, sizes = diffusion.task.diffusion_loss, []

    def loss(denoise: Any, process: Any, x_0: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if generator is None:  # in training
            return real(denoise, process, x_0)
        sizes.append(len(x_0))
        assert denoise(x_0, torch.ones(len(x_0))).shape == x_0.shape
        return x_0.mean()

    monkeypatch.setattr(diffusion.task, "diffusion_loss", loss)
    monkeypatch.setattr(
        diffusion.task, "bits_per_dimension", lambda denoise, process, x_0, *rest, **more: x_0[:, 0, 0, 0]
    )
    monkeypatch.setattr(training.task, "_PLACES_A_PASS", 3 * 16)
    fit(tmp_path / "run", parts, "--steps", "1", "--sample_every", "1")
    store = Store(tmp_path / "run/latents/validation", LatentsInfo)
    x_0 = torch.stack([latents.latents(store, i) for i in range(4)])
    assert sizes == [3, 1]
    figures = log(tmp_path / "run")[-1]
    assert figures["validation_loss"] == pytest.approx(x_0.mean().item(), rel=1e-4)
    assert figures["validation_bits_per_dimension"] == pytest.approx(x_0[:, 0, 0, 0].mean().item(), rel=1e-4)


def test_init_loads_the_given_weights(tmp_path: Path, parts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The distribution of training times may differ, but not the target, which would make another model."""
    fit(tmp_path / "first", parts, "--steps", "1")
    init = tmp_path / "first" / "model"
    given = DiffusionModel.from_pretrained(init, dtype=torch.float32).state_dict()
    seen: list[nn.Module] = []
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", lambda trainer: seen.append(trainer.task.modules["model"]))
        times = ["--model.process.times", "logit-normal", "--model.process.times_mean", "1"]
        fit(tmp_path / "second", parts, "--init", str(init), "--seed", "1", *times)
    assert seen[0].process.config.times_mean == 1
    assert all(torch.equal(tensor, given[name]) for name, tensor in seen[0].state_dict().items())
    with pytest.raises(BadInput, match=r"not a model to start from \(process.target: 'v' there, 'x0' here\)"):
        fit(tmp_path / "third", parts, "--init", str(init), "--model.process.target", "x0")


def test_a_dry_run_trains_nothing(tmp_path: Path, parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path / "run", parts, "--dry_run")
    assert "a batch: text (4, 20) torch.int64, latents (4, 4, 4, 4) torch.float32" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
