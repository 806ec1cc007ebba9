"""The upsampler: what it computes, and that its trainer learns, resumes and refuses."""

import dataclasses
import gc
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from test_tokenizer_train import _fresh_accelerator, log  # noqa: F401
from tiny_models import IMAGES, save_upsampler
from torch.nn import functional as F

from data.grid import from_pil, to_pil
from tokenizer.augment import move
from tokenizer.image_tokenizer import ImageTokenizer, to_float, to_uint8
from tokenizer.kl import KLConfig
from tokenizer.losses import psnr
from tokenizer.train_upsampler import main
from tokenizer.upsampler import Upsampler, UpsamplerConfig, enlarged
from tokenizer.upsampler_batches import reduced
from tokenizer.upsampler_options import UpsamplerTrainingConfig
from training.cli import command
from training.errors import BadInput

SHAPE = UpsamplerConfig(scale=2, width=16, groups=1, blocks=2)
FLAGS = {
    "--scale": 2, "--width": 8, "--groups": 1, "--blocks": 1, "--steps": 6, "--batch_size": 4, "--log_every": 1,
    "--checkpoint_every": 3, "--sample_every": 6, "--optimizer.warmup": 1, "--perceptual": 0, "--precision": "no",
}  # fmt: skip


def pictures(count: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("scale", [2, 4])
def test_an_untrained_upsampler_is_the_bicubic_enlargement(scale: int) -> None:
    """That of Pillow, up to rounding; for pictures of any height."""
    model = Upsampler(UpsamplerConfig(scale=scale, width=4, groups=1, blocks=1)).eval()
    for height, width in ((8, 8), (3, 8), (1, 1)):
        small = pictures(2, height, width) // 2 + 64  # Pillow clamps between rows and columns, and here need not
        made = model.upsample(small)
        assert (made.dtype, made.shape) == (torch.uint8, (2, 3, scale * height, scale * width))
        whole = to_float(small)
        size = (scale * height, scale * width)
        assert torch.equal(made, to_uint8(F.interpolate(whole, size=size, mode="bicubic", antialias=True)))
        theirs = to_pil(small[0]).resize((scale * width, scale * height), Image.Resampling.BICUBIC)
        assert (made[0].int() - from_pil(theirs).int()).abs().max() <= 1


def test_it_learns_two_pictures_better_than_bicubic() -> None:
    torch.manual_seed(0)
    large = to_float(pictures(2, 16, 16))
    small = to_float(reduced(to_uint8(large), 8))
    model = Upsampler(SHAPE)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        F.l1_loss(model(small), large).backward()
        optimizer.step()
    assert psnr(model(small), large) > psnr(enlarged(small, 2), large) + 1


def test_it_comes_back_from_disk(tmp_path: Path) -> None:
    model = save_upsampler(tmp_path, scale=2)
    again = Upsampler.from_pretrained(tmp_path)
    assert again.model_id == model.model_id
    assert torch.equal(again.upsample(pictures(1, 5, 7)), model.upsample(pictures(1, 5, 7)))


def test_what_it_refuses() -> None:
    with pytest.raises(BadInput, match=r"UpsamplerConfig\.scale is 3: must be 2 or 4"):
        UpsamplerConfig(scale=3)
    model = Upsampler(SHAPE)
    for wrong in (pictures(1, 4, 4).float(), pictures(1, 4, 4)[0], pictures(1, 4, 4)[:, :2], pictures(0, 4, 4)):
        with pytest.raises(BadInput, match=r"must be uint8 \(B, 3, h, w\)"):
            model.upsample(wrong)


def test_a_shift_by_whole_pixels_changes_no_pixel() -> None:
    large = pictures(1, 24, 24)
    moved = move(large, torch.ones(1), torch.tensor([[3.0, -2.0]]) * 2 / 24)
    assert torch.equal(moved[..., 2:, :-3], large[..., :-2, 3:])


@pytest.fixture
def train(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the trainer in this process, on pictures of 12 px reconstructed by an untrained tokenizer."""
    torch.manual_seed(0)
    ImageTokenizer(IMAGES).save_pretrained(tmp_path / "tokenizer")
    values = {"--data": photos, "--cache": tmp_path / "cache", "--tokenizer": tmp_path / "tokenizer", **FLAGS}
    given = [part for pair in values.items() for part in pair]

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["tokenizer/train_upsampler.py", *map(str, given), *map(str, arguments)])
        try:
            command(main, UpsamplerTrainingConfig)
        except SystemExit as left:
            return left.code
        finally:
            gc.collect()
            AcceleratorState._reset_state(reset_partial_state=True)
        return 0

    return run


def test_a_resumed_run_gives_the_same_result(train: Callable[..., int], tmp_path: Path) -> None:
    straight, out = tmp_path / "straight", tmp_path / "out"
    assert train("--out", straight, "--reconstructed", "0.5") == 0
    shutil.copytree(straight, out)
    shutil.rmtree(out / "model")
    shutil.rmtree(out / "checkpoints" / "step-00000006")
    assert train("--out", out, "--reconstructed", "0.5") == 0
    assert log(out) == log(straight)
    weights = "model/model.safetensors"
    assert (out / weights).read_bytes() == (straight / weights).read_bytes()
    lines = log(out)
    assert {"loss", "l1", "psnr", "psnr_bicubic"} <= lines[0].keys()
    assert {"validation_psnr", "validation_psnr_bicubic"} <= lines[-1].keys()
    with Image.open(out / "samples" / "step-00000006.png") as sheet:
        assert sheet.size == (4 * 32 + 8, 3 * 32 + 8)  # four pictures of 24 px: bicubic, ours, true
    assert Upsampler.from_pretrained(out / "model").config.scale == 2


def test_clean_pictures_need_no_tokenizer(train: Callable[..., int], tmp_path: Path) -> None:
    """An untrained tokenizer's reconstructions are grey, so the first loss tells which pictures were enlarged."""
    clean = ("--reconstructed", "0", "--image_size", "12", "--tokenizer", tmp_path / "nowhere")
    assert train("--out", tmp_path / "clean", "--steps", "1", *clean) == 0
    assert train("--out", tmp_path / "made", "--steps", "1") == 0
    first = [log(tmp_path / name)[0]["psnr_bicubic"] for name in ("clean", "made")]
    assert first[0] > first[1] + 3
    assert json.loads((tmp_path / "clean" / "data.json").read_text())["tokenizer"] is None


def test_small_pictures_may_come_from_continuous_latents(train: Callable[..., int], tmp_path: Path) -> None:
    """Only codes were reconstructed. And pixels are no image tokens: their speed was logged as that of tokens."""
    tokenizer = ImageTokenizer(dataclasses.replace(IMAGES, quantizer=KLConfig(dim=4)))
    tokenizer.save_pretrained(tmp_path / "kl")
    assert train("--out", tmp_path / "out", "--steps", "1", "--tokenizer", tmp_path / "kl") == 0
    origin = json.loads((tmp_path / "out" / "data.json").read_text())["tokenizer"]
    assert origin == [tokenizer.latents_id, tokenizer.pixels_id]
    first = json.loads((tmp_path / "out" / "log.jsonl").read_text().splitlines()[0])
    assert "images_per_second" in first
    assert "tokens_per_second" not in first


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scale", "3"], "UpsamplerConfig.scale is 3: must be 2 or 4"),
        (["--image_size", "16"], "image_size is 16, but the image tokenizer's pictures have 12 px: leave it out"),
        (["--reconstructed", "2"], "UpsamplerTrainingConfig.reconstructed is 2.0: must be from 0 to 1"),
        (["--tokenizer", ""], "UpsamplerTrainingConfig.tokenizer is '': must be a folder"),
        (["--widht", "8"], "there is no option 'widht'; did you mean 'width'?"),
    ],
)
def test_bad_input_is_one_line(
    train: Callable[..., int], tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--out", tmp_path / "run", *arguments) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()
