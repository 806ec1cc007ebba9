"""The whole chain, as a user runs it: corpus, text tokenizer, image tokenizer, codes, models, bundle, pictures."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.skipif(not (ROOT / ".venv" / "complete").exists(), reason=".venv was not built by make")
@pytest.mark.timeout(400)
def test_make_train_emoji_runs_the_whole_chain(tmp_path: Path) -> None:
    run = tmp_path / "run"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = ["make", "train-emoji", "PRESET=debug", f"RUN={run}", f"PYTHON={sys.executable}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=390)
    assert done.returncode == 0, done.stderr
    record = json.loads((run / "demo" / "generation.json").read_text())
    assert len(record["images"]) == 18
    for image in record["images"]:
        with Image.open(run / "demo" / image["file"]) as png:
            assert png.size[0] == 4 * 32
            assert png.text["prompt"] == image["prompt"]
            assert png.text["codes_id"] == record["codes_id"]
    report = json.loads((run / "reconstruction" / "report.json").read_text())
    assert report["codes_id"] == record["codes_id"]
    assert report["metrics"]["psnr"]["low"] < report["metrics"]["psnr"]["value"] < report["metrics"]["psnr"]["high"]
    card = (run / "bundle" / "README.md").read_text()
    assert "psnr" in card
    assert "OpenMoji" in card
    assert card.count("The weights are the mean of those after steps 15, 30.") == 1
    for part in ("tokenizer", "autoregressive", "diffusion"):
        assert json.loads((run / "bundle" / part / "training.json").read_text())["flops"] > 0
    for trained in ("tokenizer", "upsampler", "seq2seq", "diffusion"):
        lines = [json.loads(line) for line in (run / trained / "log.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if "loss" in line]
        assert losses[-1] < losses[0]
        assert {"images_per_second", "learning_rate", "batch"} <= lines[0].keys()
        assert list((run / trained / "samples").glob("*.png"))
