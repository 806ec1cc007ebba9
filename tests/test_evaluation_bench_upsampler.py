"""`python -m evaluation.bench_upsampler`: each upsampler beside the bicubic filter, on the same pictures."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_network import FakeNetwork
from tiny_models import IMAGES, save_upsampler

from evaluation import bench_upsampler
from evaluation.bench_upsampler import UpsamplerBenchOptions
from tokenizer.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from tokenizer.kl import KLConfig
from tokenizer.upsampler import Upsampler, UpsamplerConfig
from training.cli import command


@pytest.mark.parametrize("images", [IMAGES, replace(IMAGES, quantizer=KLConfig(dim=4))], ids=["codes", "latents"])
def test_upsamplers_are_compared(
    images: ImageTokenizerConfig, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """An untrained one is the bicubic filter, to the last digit. Image tokenizers without codes were refused."""
    torch.manual_seed(0)
    monkeypatch.setattr(bench_upsampler, "Lite", lambda variant, device: FakeNetwork(f"lite{variant}"))
    ImageTokenizer(images).save_pretrained(tmp_path / "tokenizer")
    Upsampler(UpsamplerConfig(scale=2, width=4, groups=1, blocks=1)).save_pretrained(tmp_path / "untrained")
    save_upsampler(tmp_path / "other", scale=2)
    words = ["--tokenizer", tmp_path / "tokenizer", "--data", photos, "--split", "validation", "--device", "cpu",
             "--cache", tmp_path / "cache", "--json", tmp_path / "bench.json", "--batch_size", "3"]  # fmt: skip
    given = [f"--upsampler={name}={tmp_path / name}" for name in ("untrained", "other")]
    monkeypatch.setattr(sys, "argv", ["bench_upsampler", *map(str, words), *given])
    command(bench_upsampler.main, UpsamplerBenchOptions)
    report = json.loads((tmp_path / "bench.json").read_text())
    metrics = report["metrics"]
    assert list(metrics) == ["bicubic", "untrained", "other"]
    assert metrics["untrained"] == metrics["bicubic"] != metrics["other"]
    assert metrics["bicubic"]["gain_clean"]["value"] == 0
    assert metrics["bicubic"]["psnr_clean"]["value"] > metrics["bicubic"]["psnr_reconstructed"]["value"]
    assert (report["count"], report["scale"]) == (4, 2)
    assert "| untrained |" in capsys.readouterr().out

    for argument, said in (("other", "must be NAME=FOLDER"), (None, "give one with --upsampler NAME=RUN/model")):
        asked = [] if argument is None else [f"--upsampler={argument}"]
        monkeypatch.setattr(sys, "argv", ["bench_upsampler", *map(str, words), *asked])
        with pytest.raises(SystemExit) as left:
            command(bench_upsampler.main, UpsamplerBenchOptions)
        assert left.value.code == 2
        assert said in capsys.readouterr().err
