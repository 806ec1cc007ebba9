"""The tokenizer's task: alignment as a part of training only, and the stop for unused codes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_tokenizer_adversarial import ADVERSARIAL, assert_same_checkpoints, fit
from test_training_trainer import IMAGES, PICTURES, _fresh_accelerator, assert_same_run, fail_at, log  # noqa: F401
from torch import Tensor, nn

from tokenizer.image_tokenizer import ImageTokenizer
from tokenizer.losses import ReconstructionConfig
from tokenizer.options import TokenizerTrainingConfig
from tokenizer.parts import QUANTIZERS
from training.errors import BadInput

ALIGNED = replace(ADVERSARIAL, alignment=0.5, alignment_stride=4, lecam=0.0, r1=0.0)


class StubFeatures(nn.Module):
    """Features that cost nothing: mean colors, repeated."""

    def __init__(self, grid: int, stride: int) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(images, self.grid).repeat(1, 8, 1, 1).permute(0, 2, 3, 1)


@pytest.fixture(autouse=True)
def _stub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenizer.task.FrozenFeatures", StubFeatures)


def kept(out: Path, step: int, name: str) -> dict[str, Tensor]:
    return load_file(out / "checkpoints" / f"step-{step:08d}" / f"{name}.safetensors")


def test_alignment_trains_encoder_and_projection_and_is_not_exported(tmp_path: Path) -> None:
    only = ReconstructionConfig(l1=0, l2=0, perceptual=0, alignment=1, alignment_adaptive=False, alignment_stride=4)
    fit(tmp_path, only, steps=30, checkpoint_every=15)
    lines = log(tmp_path)
    assert lines[-1]["alignment"] < 0.7 * lines[0]["alignment"]
    assert lines[-1]["loss_projection"] < lines[0]["loss_projection"]
    assert not torch.equal(*(kept(tmp_path, step, "projection")["weight"] for step in (15, 30)))
    aligned = ImageTokenizer.from_pretrained(tmp_path / "model")  # has no tensor of the projection
    assert aligned.config == IMAGES


def test_adaptive_alignment_and_a_discriminator_resume_exactly(tmp_path: Path) -> None:
    """Three optimizers."""
    fit(tmp_path / "straight", ALIGNED)
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path / "died", ALIGNED, at=fail_at(5))
    fit(tmp_path / "died", ALIGNED)
    assert_same_run(tmp_path / "straight", tmp_path / "died")
    assert_same_checkpoints(tmp_path / "straight", tmp_path / "died", "projection")
    assert all(line["alignment_weight"] > 0 for line in log(tmp_path / "died"))


@pytest.mark.parametrize("kind", sorted({*QUANTIZERS.kinds} - {IMAGES.quantizer.kind}))  # that one does above
def test_every_quantizer_resumes_exactly(kind: str, tmp_path: Path) -> None:
    """With the codebooks that gradients or averages move, and the random choices of those that restart codes."""
    model = replace(IMAGES, quantizer=QUANTIZERS[kind](**({"dim": 16} if kind in ("ibq", "simvq", "vq") else {})))
    task = ReconstructionConfig(perceptual=0)
    fit(tmp_path / "straight", task, steps=4, model=model)
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path / "died", task, steps=4, model=model, at=fail_at(3))
    fit(tmp_path / "died", task, steps=4, model=model)
    assert_same_run(tmp_path / "straight", tmp_path / "died")


def test_validation_pictures_are_reconstructed_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """128 pictures of 256 px in one pass took more memory than a training step."""
    monkeypatch.setattr("training.task._PLACES_A_PASS", 2 * 9)
    sizes, whole = [], ImageTokenizer.reconstruct

    def reconstruct(tokenizer: ImageTokenizer, images: Tensor) -> Tensor:
        sizes.append(len(images))
        return whole(tokenizer, images)

    monkeypatch.setattr(ImageTokenizer, "reconstruct", reconstruct)
    config = TokenizerTrainingConfig(data="", out="", steps=1, model=IMAGES, task=ReconstructionConfig(perceptual=0))
    task = config.task.build(config, PICTURES, PICTURES[:5], torch.device("cpu"))
    assert task.evaluate(task.modules["model"].eval(), tmp_path / "sample.png").keys() == {"validation_psnr"}
    assert sizes == [2, 2, 1]


def test_too_few_codes_in_use_stop_the_run_before_it_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenizer.cosine_vq.CosineVQ.health", lambda quantizer: {"usage": torch.tensor(0.05)})
    task = ReconstructionConfig(perceptual=0, min_usage=0.1, min_usage_after=6)
    with pytest.raises(BadInput) as stopped:
        fit(tmp_path, task)
    said = r"by step 6 only 5.00% of the codes are in use, less than task.min_usage 10.00%: start a new run"
    assert stopped.match(said)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step-00000002", "step-00000004"}
    assert log(tmp_path)[-1]["step"] == 6


def test_enough_codes_in_use_do_not_stop_it(tmp_path: Path) -> None:
    fit(tmp_path, ReconstructionConfig(perceptual=0, min_usage=0.01, min_usage_after=0))
    assert (tmp_path / "model").is_dir()


def test_usage_that_is_not_told_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenizer.cosine_vq.CosineVQ.health", lambda quantizer: {})
    with pytest.raises(BadInput, match="quantizer 'cosine-vq' does not tell the usage"):
        fit(tmp_path, ReconstructionConfig(perceptual=0, min_usage=0.5))
