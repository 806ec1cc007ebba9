"""`python -m evaluation.reconstruct`: the report that it writes, and the fields that other commands read."""

import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_network import FakeNetwork
from PIL import Image
from tiny_models import IMAGES

from evaluation import harness, reconstruct
from evaluation.harness import EvaluationSetup
from evaluation.judge import Judge
from evaluation.result import read_result
from evaluation.suites import Prompt, Suite
from tokenizer.image_tokenizer import ImageTokenizer
from training.cli import command


@pytest.mark.parametrize("distances", ["true", "false"])
def test_a_tokenizer_is_evaluated(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distances: str
) -> None:
    monkeypatch.setattr(IMAGES, "image_size", 16)  # the smallest that a source is drawn at
    monkeypatch.setattr(reconstruct, "Lite", lambda variant, device: FakeNetwork(f"lite{variant}"))
    batches, whole = [], reconstruct.psnr
    monkeypatch.setattr(reconstruct, "psnr", lambda made, images: (batches.append(len(made)), whole(made, images))[1])
    ImageTokenizer(IMAGES).save_pretrained(tmp_path / "model")
    words = ["--model", str(tmp_path / "model"), "--data", str(photos), "--split", "validation", "--device", "cpu",
             "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out"), "--distances", distances,
             "--batch_size", "3"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["reconstruct", *words])
    command(reconstruct.main, reconstruct.ReconstructOptions)
    assert batches == [3, 1]  # as many as fit into memory at a time
    report = read_result(tmp_path / "out" / "report.json")
    assert report["kind"] == "reconstruction"
    assert {"codes_id", "pixels_id", "source", "fingerprint", "count"} <= report.keys()
    metrics = report["metrics"]
    assert metrics["bits_per_pixel"]["value"] == pytest.approx(math.log2(20) / 16)
    assert metrics["psnr"]["low"] <= metrics["psnr"]["value"] <= metrics["psnr"]["high"]
    assert metrics["encode_images_per_second"]["value"] > 0
    assert ({"kid", "kid_lite1"} <= metrics.keys()) == (distances == "true")
    assert "fd_lite0" not in metrics  # of four pictures
    with Image.open(tmp_path / "out" / "pictures.png") as sheet:
        assert sheet.width > sheet.height


def test_reconstructions_of_a_suite_are_named_too(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(IMAGES, "image_size", 16)
    monkeypatch.setattr(harness, "open_networks", lambda options: [FakeNetwork("lite0")])
    ImageTokenizer(IMAGES).save_pretrained(tmp_path / "model")
    words = ["--model", str(tmp_path / "model"), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]

    def run(suite: str) -> None:
        monkeypatch.setattr(sys, "argv", ["reconstruct", *words, "--suite", suite])
        command(reconstruct.main, reconstruct.ReconstructOptions)

    run(f"{photos}@validation")
    report = read_result(tmp_path / "out" / "report.json")
    assert report["count"] == 4
    assert {"psnr", "kid", "codebook_usage"} <= report["metrics"].keys()
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "6.png").write_text("damaged")
    run(f"{tmp_path / 'photos'}@validation")
    assert read_result(tmp_path / "out" / "report.json")["count"] == 3
    with pytest.raises(SystemExit):
        run("free")
    assert "--suite free: its prompts are not captions of real pictures" in capsys.readouterr().err


def test_reconstructions_of_low_pictures_are_as_low(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their height was taken for that of the square that they are filled to, so none of `scenes/low` was right."""
    pictures = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    prompt = Prompt(text="a fox, 8:4", attribute="height", expected="4")
    judge = Judge(networks=[FakeNetwork("lite0")], reference=pictures, reference_name="low", cache=tmp_path)
    setup = EvaluationSetup(judge=judge, originals=list(pictures), heights=[8] * 4)
    suite = Suite(name="low", source="low", prompts=[replace(prompt, text=f"{i}") for i in range(4)])
    monkeypatch.setattr(reconstruct, "open_suite", lambda *_, **__: suite)
    monkeypatch.setattr(reconstruct, "with_readable_pictures", lambda suite, *_: suite)
    monkeypatch.setattr(reconstruct, "open_setup", lambda *given: setup)
    options = reconstruct.ReconstructOptions(model=tmp_path, out=tmp_path, suite="low", device="cpu")
    assert reconstruct._of_suite(options, 16).distances(pictures)["attribute_accuracy"].value == 1
