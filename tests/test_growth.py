"""What an outsider adds with one small file each, by `--import` to the commands that everybody uses."""

import gc
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from data.corpus import SOURCES
from tokenizer.image_tokenizer import ImageTokenizer
from tokenizer.parts import BACKBONES, QUANTIZERS
from training.cli import command
from training.parts import import_parts

ROOT = Path(__file__).parents[1]
MOST_LINES = 40
"""Of a file that adds a part."""

QUANTIZER = '''
"""Finite scalar quantization (arXiv 2309.15505): each dimension is rounded to one of a few values."""

from dataclasses import dataclass
from math import prod

import torch
from vector_quantize_pytorch import FSQ
from tokenizer.parts import QUANTIZERS, Quantizer, QuantizerConfig


@QUANTIZERS.register("rounding")
@dataclass(kw_only=True)
class RoundingConfig(QuantizerConfig):
    levels: tuple[int, ...] = (8, 8)
    """Values of each dimension."""
    size = property(lambda self: prod(self.levels))
    dim = property(lambda self: len(self.levels))

    def build(self, width):
        return Rounding(width, self.levels)


class Rounding(Quantizer):
    def __init__(self, width, levels):
        super().__init__()
        with torch.device("cpu"):  # it looks at its numbers
            self.fsq = FSQ(levels, dim=width)

    def forward(self, z):
        quantized, codes = self.fsq(z.flatten(1, 2))
        return quantized.view_as(z), codes.view(z.shape[:3]).long(), {}

    def vectors(self, z):
        return self.fsq.project_in(z)

    def nearest(self, vectors):
        return self.fsq.codes_to_indices(self.fsq.quantize(vectors)).long()

    def lookup(self, codes):
        return self.fsq.indices_to_codes(codes.flatten(1)).unflatten(1, codes.shape[1:])
'''

BACKBONE = '''
"""A small convolutional backbone."""

from dataclasses import dataclass

from einops.layers.torch import Rearrange
from torch import nn

from tokenizer.parts import BACKBONES, BackboneConfig


@BACKBONES.register("halving")
@dataclass(kw_only=True)
class HalvingConfig(BackboneConfig):
    width: int = 16
    """Channels."""
    depth: int = 3
    """How often the picture is halved."""
    factor = property(lambda self: 2**self.depth)

    def encoder(self, image_size):
        down = [nn.Sequential(nn.Conv2d(self.width, self.width, 2, 2), nn.GELU()) for _ in range(self.depth)]
        return nn.Sequential(nn.Conv2d(3, self.width, 1), *down, Rearrange("b d h w -> b h w d"))

    def decoder(self, image_size):
        up = [nn.Sequential(nn.ConvTranspose2d(self.width, self.width, 2, 2), nn.GELU()) for _ in range(self.depth)]
        return nn.Sequential(Rearrange("b h w d -> b d h w"), *up, nn.Conv2d(self.width, 3, 1))
'''

SOURCE = '''
"""Squares, as many as are asked for: `squares:24`."""

import numpy as np

from data.corpus import SOURCES, Corpus


class Squares(Corpus):
    def __init__(self, count):
        self.name, self.recipe = f"squares-{count}", "squares, first version"
        self.keys = [f"square {i}" for i in range(count)]
        self.splits = ["train" if i % 6 else "validation" for i in range(count)]

    def draw(self, i, size):
        picture = np.full((3, size, size), 255, np.uint8)
        picture[i % 3, : size // 2 + i % 5, : size // 2] = 0
        return picture

    def captions(self, i):
        return (f"a {('cyan', 'magenta', 'yellow')[i % 3]} square, number {i}",)

    def original_size(self, i):
        return None


@SOURCES.register("squares")
def squares(rest, cache):
    return Squares(int(rest))
'''

Run = Callable[..., str]


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is none of the project's, with a file for each part; also the folder that one is in."""
    for name, content in {"own_quantizer": QUANTIZER, "own_backbone": BACKBONE, "own_source": SOURCE}.items():
        assert len(content.strip().splitlines()) <= MOST_LINES
        (tmp_path / f"{name}.py").write_text(content.strip())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Gives a command as in a process of its own, which knows nothing that another one has imported."""

    def start(name: str, *arguments: object, code: int = 0) -> str:
        module = importlib.import_module(name)
        argv = [
            str(word) for argument in arguments for word in (argument if isinstance(argument, list) else [argument])
        ]
        with monkeypatch.context() as own:
            own.setattr(sys, "argv", [name, *argv])
            own.setattr(sys, "path", [*sys.path])
            own.setattr(sys, "modules", dict(sys.modules))
            for registry in (BACKBONES, QUANTIZERS, SOURCES):
                own.setattr(registry, "_parts", dict(registry._parts))
            left: Any = 0
            try:
                command(*COMMANDS[name](module))
            except SystemExit as error:
                left = error.code or 0
            finally:
                gc.collect()
                AcceleratorState._reset_state(reset_partial_state=True)
        said = capsys.readouterr()
        assert left == code, said.err
        return said.err if code else said.out

    AcceleratorState._reset_state(reset_partial_state=True)
    yield start
    AcceleratorState._reset_state(reset_partial_state=True)


COMMANDS: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    "data.inspect": lambda m: (m.main, m.InspectOptions, ["source"]),
    "tokenizer.train_text": lambda m: (m.main, m.TextTrainingOptions),
    "tokenizer.train": lambda m: (m.main, m.TokenizerTrainingConfig),
    "tokenizer.encode": lambda m: (m.main, m.EncodeOptions),
    "seq2seq.train": lambda m: (m.main, m.TokenTrainingConfig),
    "sampling.generate": lambda m: (m.main, m.GenerateOptions),
    "evaluation.reconstruct": lambda m: (m.main, m.ReconstructOptions),
}
SHORT = [
    "--steps", "3", "--batch_size", "4", "--precision", "no", "--checkpoint_every", "100", "--sample_every", "3",
    "--log_every", "1",
]  # fmt: skip
PARTS = ["--import", "own_backbone.py", "--import", "own_quantizer.py"]
DATA = ["--import", "own_source.py", "--data", "squares:24", "--cache", "cache"]
MODEL = [
    "--model.image_size", "32", "--model.backbone.kind", "halving", "--model.quantizer.kind", "rounding",
    "--model.quantizer.levels", "[8,6]", "--loss.perceptual", "0",
]  # fmt: skip


def test_a_source_of_pictures(outside: Path, run: Run) -> None:
    said = run("data.inspect", "squares:24", "--import", "own_source.py", "--size", "32", "--cache", "cache")
    assert "squares-24-32/all, 24 pictures" in said
    said = run("data.inspect", "squares:24", code=2)
    assert "squares:24: no such file or folder" in said


def test_a_backbone_a_quantizer_and_a_source_pass_the_whole_chain(outside: Path, run: Run) -> None:
    run("tokenizer.train_text", DATA, "--size", "32", "--vocab_size", "300", "--out", "text")
    run("tokenizer.train", PARTS, DATA, MODEL, SHORT, "--out", "tokenizer")
    (line, *_) = map(json.loads, (outside / "tokenizer" / "log.jsonl").read_text().splitlines())
    assert {"l1", "l2", "psnr"} <= line.keys()
    assert not {"commitment", "usage"} & line.keys()  # what another quantizer says of itself
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
    assert report["metrics"]["psnr"]["value"] > 0
    assert report["metrics"]["codebook_usage"]["value"] * 48 == pytest.approx(
        round(report["metrics"]["codebook_usage"]["value"] * 48)
    )
    said = run("sampling.generate", drawn, code=2)
    assert "there is no backbone 'halving'; there are vit" in said
    assert len(said.splitlines()) == 1


def test_a_tokenizer_of_such_parts_keeps_the_contract(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes, latents, ids and shorter pictures, as of our own parts."""
    for registry in (BACKBONES, QUANTIZERS):
        monkeypatch.setattr(registry, "_parts", dict(registry._parts))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    import_parts(PARTS)
    torch.manual_seed(0)
    config = ImageTokenizer.config_class(
        image_size=32, backbone=BACKBONES["halving"](), quantizer=QUANTIZERS["rounding"](levels=(8, 6))
    )
    model = ImageTokenizer(config).eval()
    assert (config.grid, config.factor, config.codebook_size, config.codebook_dim) == (4, 8, 48, 2)
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
