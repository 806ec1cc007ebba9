"""The whole chain, with continuous latents and with residual codes: models, bundle, pictures and scores."""

import gc
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from fake_network import FakeNetwork
from PIL import Image
from tiny_models import text_tokenizer

import diffusion.train
import evaluation.run
import sampling.bundle
import sampling.generate
import seq2seq.train
import tokenizer.encode
import tokenizer.train
from diffusion.model import DiffusionModel
from diffusion.options import DiffusionTrainingConfig
from evaluation import harness, reconstruct
from evaluation.result import read_result
from sampling import load
from sampling.options import DiffusionOptions, SamplingOptions
from seq2seq.options import TokenTrainingConfig
from tokenizer.image_tokenizer import ImageTokenizer
from tokenizer.options import TokenizerTrainingConfig
from training.cli import command
from training.errors import BadInput

Run = Callable[..., str]
SHORT = ["--steps", 2, "--batch_size", 4, "--precision", "no", "--sample_every", 2, "--log_every", 1]
VIT = {
    "kind": "vit",
    "patch_size": 4,
    "width": 16,
    "encoder_depth": 1,
    "decoder_depth": 1,
    "heads": 2,
    "pixel_width": 4,
}
IMAGE_MODEL = [
    "--model.image_size", 16, "--model.quantizer.dim", 4, "--task.perceptual", 0,
    *(word for name, value in VIT.items() for word in (f"--model.backbone.{name}", value)),
]  # fmt: skip
DENOISER = [
    "--config", "debug", "--limit", 20, "--model.width", 16, "--model.dit.mlp_width", 16, "--model.dit.depth", 1,
    "--model.text.width", 16, "--model.text.mlp_width", 16, "--views", 1,
]  # fmt: skip
TOKEN_MODEL = [
    "--model.width", 16, "--model.mlp_width", 16, "--model.heads", 2, "--model.encoder_depth", 1,
    "--model.decoder_depth", 1, "--views", 1,
]  # fmt: skip
REFUSAL = "this image tokenizer has continuous latents and no codes: train one with a quantizer for a token model"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run a command as in a new process, in `tmp_path`; return what it printed."""

    def start(main: Callable[[Any], None], options: type, *arguments: object, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        left: Any = 0
        try:
            command(main, options)
        except SystemExit as error:
            left = error.code or 0
        finally:
            gc.collect()
            AcceleratorState._reset_state(reset_partial_state=True)
        said = capsys.readouterr()
        assert left == code, said.err
        return said.err if code else said.out

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # by trainers: see `conftest.py`
    AcceleratorState._reset_state(reset_partial_state=True)
    yield start
    AcceleratorState._reset_state(reset_partial_state=True)


def test_the_chain_with_continuous_latents(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokenizer, diffusion model, bundle, pictures and scores; a token model is refused."""
    text_tokenizer().save_pretrained(tmp_path / "text")
    pictures = ["--data", photos, "--cache", "cache"]
    vae = [*IMAGE_MODEL, "--model.quantizer.kind", "kl", "--out", "vae"]
    run(tokenizer.train.main, TokenizerTrainingConfig, *pictures, *SHORT, *vae)
    (line, *_) = map(json.loads, (tmp_path / "vae" / "log.jsonl").read_text().splitlines())
    assert {"kl", "nats_per_dimension", "psnr"} <= line.keys()
    assert not {"usage", "perplexity", "commitment"} & line.keys()
    with Image.open(tmp_path / "vae" / "samples" / "step-00000002.png") as sheet:
        assert sheet.size == (4 * 136 + 8, 3 * 136 + 8)  # originals, reconstructions, pictures from the prior

    given = ["--tokenizer", "vae/model", "--text", "text", *pictures]
    said = run(seq2seq.train.main, TokenTrainingConfig, *given, *SHORT, "--out", "refused", code=2)
    assert said.splitlines()[-1] == f"error: {REFUSAL}"
    options = tokenizer.encode.EncodeOptions
    said = run(tokenizer.encode.main, options, "--model", "vae/model", *pictures, "--out", "refused", code=2)
    assert said.splitlines()[-1] == f"error: {REFUSAL}"
    assert not (tmp_path / "refused").exists()

    run(diffusion.train.main, DiffusionTrainingConfig, *DENOISER, *given, *SHORT, "--out", "denoiser")
    bundle = load(tmp_path / "denoiser" / "bundle")
    assert bundle.ids.keys() == {"latents_id", "pixels_id", "text_id"}
    assert "4x4 latents of 4" in (tmp_path / "denoiser" / "bundle" / "README.md").read_text()
    drawn = ["--model", "denoiser/bundle", "--backend", "diffusion", "--steps", 2, "--device", "cpu"]
    options = sampling.generate.GenerateOptions
    run(sampling.generate.main, options, *drawn, "--prompt", "a quilt", "--out", "drawn")
    record = json.loads((tmp_path / "drawn" / "generation.json").read_text())
    assert record["latents_id"] == bundle.tokenizer.latents_id
    with Image.open(tmp_path / "drawn" / record["images"][0]["file"]) as png:
        assert png.size == (16, 16)

    measured = ["--model", "vae/model", "--split", "validation", "--distances", "false", "--device", "cpu"]
    run(reconstruct.main, reconstruct.ReconstructOptions, *pictures, *measured, "--out", "measured")
    report = read_result(tmp_path / "measured" / "report.json")
    assert report["latents_id"] == bundle.tokenizer.latents_id
    assert not {"codebook_usage", "codebook_perplexity", "bits_per_pixel"} & report["metrics"].keys()
    monkeypatch.setattr(harness, "open_networks", lambda options: [FakeNetwork("lite0")])
    scored = ["--suite", f"{photos}@validation", "--cache", "cache", "--out", "scored"]
    run(evaluation.run.main, evaluation.run.RunOptions, *drawn, *scored)
    result = read_result(tmp_path / "scored" / "result.json")
    assert "codes_id" not in result["subject"]
    assert {"kid", "bits_per_dimension"} <= result["metrics"].keys()
    assert "reconstruction" in result["controls"]

    other = ImageTokenizer.from_pretrained(tmp_path / "vae" / "model")
    other.latent_mean += 1
    model = DiffusionModel.from_pretrained(tmp_path / "denoiser" / "model")
    ids = f"image tokenizer {bundle.tokenizer.latents_id}, but this one is {other.latents_id}"
    with pytest.raises(BadInput, match=ids):
        type(bundle)(text=bundle.text, tokenizer=other, models={"diffusion": model})


def test_the_chain_with_residual_codes(run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two codes of each place: both models train on them, draw, stream and score."""
    text_tokenizer().save_pretrained(tmp_path / "text")
    pictures = ["--data", photos, "--cache", "cache"]
    residual = ["--model.quantizer.kind", "residual-vq", "--model.quantizer.size", 32, "--model.quantizer.depth", 2]
    run(tokenizer.train.main, TokenizerTrainingConfig, *pictures, *SHORT, *IMAGE_MODEL, *residual, "--out", "images")
    (line, *_) = map(json.loads, (tmp_path / "images" / "log.jsonl").read_text().splitlines())
    assert {"commitment", "usage", "perplexity", "usage_1", "usage_2"} <= line.keys()
    measured = ["--model", "images/model", "--split", "validation", "--distances", "false", "--device", "cpu"]
    run(reconstruct.main, reconstruct.ReconstructOptions, *pictures, *measured, "--out", "measured")
    metrics = read_result(tmp_path / "measured" / "report.json")["metrics"]
    assert metrics["bits_per_pixel"]["value"] == 2 * 5 / 16
    by_depth = [metrics[f"codebook_usage_{n}"]["value"] for n in (1, 2)]
    assert metrics["codebook_usage"]["value"] == min(by_depth)

    codes = ["--model", "images/model", *pictures, "--views", 1, "--out", "codes"]
    run(tokenizer.encode.main, tokenizer.encode.EncodeOptions, *codes)
    given = ["--tokenizer", "images/model", "--text", "text"]
    run(seq2seq.train.main, TokenTrainingConfig, *given, *SHORT, *TOKEN_MODEL, "--data", "codes", "--out", "tokens")
    denoiser = [*DENOISER, *given, *pictures, *SHORT, "--sample_every", 0, "--out", "denoiser"]
    run(diffusion.train.main, DiffusionTrainingConfig, *denoiser)
    parts = {"autoregressive": "tokens/model", "diffusion": "denoiser/model"}
    both = [word for kind, folder in parts.items() for word in ("--backend", f"{kind}={folder}")]
    run(sampling.bundle.main, sampling.bundle.BundleOptions, *given, *both, "--out", "bundle")
    assert "4x8 tokens of 32 codes" in (tmp_path / "bundle" / "README.md").read_text()

    bundle = load(tmp_path / "bundle", engine="plain")
    config = bundle.models["autoregressive"].config
    assert (config.grid, config.depth, config.columns) == (4, 2, 8)
    options = SamplingOptions(guidance=2.0)
    *_, (streamed,) = bundle.stream(["a quilt"], seed=1, options=options)
    (drawn,) = bundle.generate(["a quilt"], seed=1, options=options)
    assert torch.equal(streamed, drawn)
    (denoised,) = bundle.generate(["a quilt"], options=DiffusionOptions(steps=2))
    assert denoised.shape == (3, 16, 16)

    which = ["--model", "bundle", "--engine", "plain", "--device", "cpu"]
    start = ["--init_image", photos / "0.png", "--mask", photos / "0.png", "--out", "inpainted"]
    run(sampling.generate.main, sampling.generate.GenerateOptions, *which, "--prompt", "a quilt", *start)
    (image,) = json.loads((tmp_path / "inpainted" / "generation.json").read_text())["images"]
    with Image.open(tmp_path / "inpainted" / image["file"]) as png:
        assert png.size == (16, 16)
    monkeypatch.setattr(harness, "open_networks", lambda options: [FakeNetwork("lite0")])
    scored = ["--suite", f"{photos}@validation", "--cache", "cache", "--out", "scored"]
    run(evaluation.run.main, evaluation.run.RunOptions, *which, *scored)
    assert {"kid", "bits_per_image"} <= read_result(tmp_path / "scored" / "result.json")["metrics"].keys()
