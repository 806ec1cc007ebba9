"""Parts of one's own: each is one small file, given to the usual commands by `--import`."""

import gc
import importlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from fake_network import FakeNetwork
from PIL import Image

from data.corpus import SOURCES
from evaluation import harness
from evaluation.result import read_result
from sampling.options import BACKENDS
from tokenizer.image_tokenizer import ImageTokenizer
from tokenizer.losses import TASKS
from tokenizer.parts import BACKBONES, QUANTIZERS
from training.cli import command
from training.parts import Registry, import_parts

ROOT = Path(__file__).parents[1]
MAX_LINES = 40
"""Most lines of a file that adds a part."""

SHOWN = (ROOT / "CONTRIBUTING.md").read_text()
FILES = dict(re.findall(r"`(own_\w+)\.py`:\n\n```python\n(.*?)```", SHOWN, re.S))
"""The Python files in `CONTRIBUTING.md`, by name."""
Run = Callable[..., str]


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder outside the project, with a file for each part. It is also the working directory."""
    for name, content in FILES.items():
        assert len(content.strip().splitlines()) <= MAX_LINES
        (tmp_path / f"{name}.py").write_text(content.strip())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def forget() -> None:
    """Removes the modules that were imported from those files."""
    for name in FILES:
        sys.modules.pop(name, None)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs a command as if in a new process, which has not imported anything yet."""

    def start(name: str, *arguments: object, code: int = 0) -> str:
        module = importlib.import_module(name)
        argv = [
            str(word) for argument in arguments for word in (argument if isinstance(argument, list) else [argument])
        ]
        with monkeypatch.context() as own:
            own.setattr(sys, "argv", [name, *argv])
            own.setattr(sys, "path", [*sys.path])
            for registry in REGISTRIES:
                own.setattr(registry, "_parts", dict(registry._parts))
            left: Any = 0
            try:
                command(*COMMANDS[name](module))
            except SystemExit as error:
                left = error.code or 0
            finally:
                forget()
                gc.collect()
                AcceleratorState._reset_state(reset_partial_state=True)
        said = capsys.readouterr()
        assert left == code, said.err
        return said.err if code else said.out

    AcceleratorState._reset_state(reset_partial_state=True)
    yield start
    AcceleratorState._reset_state(reset_partial_state=True)


REGISTRIES: list[Registry[Any]] = [BACKBONES, QUANTIZERS, SOURCES, TASKS, BACKENDS]
COMMANDS: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    "data.inspect": lambda m: (m.main, m.InspectOptions),
    "tokenizer.train_text": lambda m: (m.main, m.TextTrainingOptions),
    "tokenizer.train": lambda m: (m.main, m.TokenizerTrainingConfig),
    "tokenizer.encode": lambda m: (m.main, m.EncodeOptions),
    "seq2seq.train": lambda m: (m.main, m.TokenTrainingConfig),
    "sampling.bundle": lambda m: (m.main, m.BundleOptions),
    "sampling.generate": lambda m: (m.main, m.GenerateOptions),
    "evaluation.run": lambda m: (m.main, m.RunOptions),
    "evaluation.reconstruct": lambda m: (m.main, m.ReconstructOptions),
}
SHORT = [
    "--steps", "3", "--batch_size", "4", "--precision", "no", "--checkpoint_every", "100", "--sample_every", "3",
    "--log_every", "1",
]  # fmt: skip
PARTS = ["--import", "own_backbone.py", "--import", "own_quantizer.py"]
TASK_GIVEN = ["--import", "own_task.py", "--task", "duel", "--task.weight", "0.2"]
BACKEND_GIVEN = ["--import", "own_backend.py"]
DATA = ["--import", "own_source.py", "--data", "squares:24", "--cache", "cache"]
MODEL = [
    "--model.image_size", "32", "--model.backbone.kind", "halving", "--model.quantizer.kind", "rounding",
    "--model.quantizer.levels", "[8,6]", "--task.perceptual", "0",
]  # fmt: skip


def test_there_is_an_example_of_each_family() -> None:
    assert {*FILES} == {"own_quantizer", "own_backbone", "own_source", "own_task", "own_backend"}


def test_a_source_of_pictures(outside: Path, run: Run) -> None:
    said = run("data.inspect", "squares:24", "--import", "own_source.py", "--size", "32", "--cache", "cache")
    assert "squares-24-32/all, 24 pictures" in said
    said = run("data.inspect", "squares:24", code=2)
    assert "squares:24: no such file or folder" in said


def test_parts_from_outside_are_trained_sampled_and_scored(
    outside: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("tokenizer.train_text", DATA, "--size", "32", "--vocab_size", "300", "--out", "text")
    run("tokenizer.train", PARTS, DATA, MODEL, SHORT, TASK_GIVEN, "--out", "tokenizer")
    (line, *_) = map(json.loads, (outside / "tokenizer" / "log.jsonl").read_text().splitlines())
    assert {"l1", "l2", "psnr", "loss_discriminator", "real_discriminator", "grad_norm_discriminator"} <= line.keys()
    assert not {"commitment", "usage"} & line.keys()  # scalars of another quantizer
    run("tokenizer.encode", PARTS, DATA, "--model", "tokenizer/model", "--device", "cpu", "--out", "codes")
    small = ["--model.width", "32", "--model.mlp_width", "32", "--model.heads", "1", "--model.encoder_depth", "1"]
    given = ["--tokenizer", "tokenizer/model", "--text", "text", *small, "--model.decoder_depth", "1"]
    run("seq2seq.train", PARTS, SHORT, given, "--data", "codes", "--out", "seq2seq")
    drawn = ["--model", "seq2seq/bundle", "--prompt", "a cyan square", "--device", "cpu", "--out", "drawn"]
    run("sampling.generate", PARTS, drawn)
    (record,) = json.loads((outside / "drawn" / "generation.json").read_text())["images"]
    with Image.open(outside / "drawn" / record["file"]) as png:
        assert png.size[0] == 32
    measured = ["--model", "tokenizer/model", "--device", "cpu", "--distances", "false", "--out", "measured"]
    run("evaluation.reconstruct", PARTS, DATA, measured, "--split", "validation")
    report = json.loads((outside / "measured" / "report.json").read_text())
    assert 0 < report["metrics"]["codebook_usage"]["value"] <= 1
    assert report["metrics"]["bits_per_pixel"]["value"] == pytest.approx(math.log2(48) / 8**2)
    given = ["--text", "text", "--tokenizer", "tokenizer/model", "--out", "bundle"]
    said = run("sampling.bundle", PARTS, given, "--backend", "likeliest=seq2seq/model", code=2)
    assert "KIND one of autoregressive, diffusion" in said
    run("sampling.bundle", PARTS, BACKEND_GIVEN, given, "--backend", "likeliest=seq2seq/model")
    asked = ["--model", "bundle", "--backend", "likeliest", "--skip", "1", "--device", "cpu"]
    run("sampling.generate", PARTS, BACKEND_GIVEN, asked, "--prompt", "a cyan square", "--out", "likeliest")
    record = json.loads((outside / "likeliest" / "generation.json").read_text())
    assert (record["backend"], record["options"]) == (
        "likeliest",
        {"guidance": 2.0, "guidance_from": 0.0, "guidance_until": 1.0, "skip": 1},
    )
    scored = ["--import", "own_source.py", "--suite", "squares:24@validation", "--cache", "cache", "--out", "scored"]
    monkeypatch.setattr(harness, "open_networks", lambda options: [FakeNetwork("lite0")])
    run("evaluation.run", PARTS, BACKEND_GIVEN, asked, scored)
    result = read_result(outside / "scored" / "result.json")
    assert result["subject"]["backend"] == "likeliest"
    assert {"kid", "bits_per_image"} <= result["metrics"].keys()

    said = run("sampling.generate", drawn, code=2)
    assert "there is no backbone 'halving'; there are conv, vit" in said
    assert len(said.splitlines()) == 1


def test_a_tokenizer_of_outside_parts_keeps_the_interface(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes, latents, ids and shorter pictures work as with built-in parts."""
    for registry in (BACKBONES, QUANTIZERS):
        monkeypatch.setattr(registry, "_parts", dict(registry._parts))
    monkeypatch.setattr(sys, "path", [*sys.path])
    import_parts(PARTS)
    forget()
    torch.manual_seed(0)
    config = ImageTokenizer.config_class(
        image_size=32, backbone=BACKBONES["halving"](), quantizer=QUANTIZERS["rounding"](levels=(8, 6))
    )
    model = ImageTokenizer(config).eval()
    assert (config.grid, config.backbone.factor, config.quantizer.size, config.quantizer.dim) == (4, 8, 48, 2)
    pictures = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    model.calibrate([pictures])
    codes = model.encode(pictures)
    made = model(pictures.float() / 127.5 - 1)
    assert torch.equal(made.codes, codes)
    assert torch.equal(model.decode_latents(model.latents(pictures)), model.decode(codes))
    assert model.decode(codes[:, :2]).shape == (6, 3, 16, 32)
    model.save_pretrained(outside / "saved")
    again = ImageTokenizer.from_pretrained(outside / "saved")
    assert (again.codes_id, again.pixels_id) == (model.codes_id, model.pixels_id)
    assert torch.equal(again.encode(pictures), codes)
    model.decoder[-1].bias.data += 1
    assert (again.codes_id == model.codes_id, again.pixels_id == model.pixels_id) == (True, False)
    model.encoder[0].bias.data += 1
    assert again.codes_id != model.codes_id


def test_the_launcher_passes_imports_on(outside: Path, launch: Any) -> None:
    launcher = launch(ROOT / "tokenizer" / "train.py", *PARTS, *DATA, *MODEL, *SHORT, "--workers", "1", "--out", "run")
    said, errors = launcher.communicate(timeout=150)
    assert launcher.returncode == 0, errors
    assert "trained 3 steps; the model is in run/model" in said
    assert "--import own_backbone.py" in (outside / "run" / "command.txt").read_text()
