"""The adversarial task: its losses in closed form, and that two optimizers resume exactly."""

import errno
import gc
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors import safe_open
from safetensors.torch import load_file
from test_training_trainer import IMAGES, PICTURES, Examples, _fresh_accelerator, assert_same_run, fail_at, log  # noqa: F401
from torch import nn

from tokenizer.adaptive import adaptive_weight, last_layer
from tokenizer.adversarial import Judge, discriminator_loss, generator_loss, lecam, r1_penalty
from tokenizer.discriminators import PatchConfig, StyleGANConfig
from tokenizer.image_tokenizer import ImageTokenizer
from tokenizer.losses import AdversarialConfig, DiscriminatorOptimizerConfig, ReconstructionConfig
from tokenizer.options import TokenizerTrainingConfig
from training import files
from training.batches import Batch
from training.command_line import parse
from training.errors import BadInput
from training.options import OptimizerConfig
from training.run import RunFolder
from training.task import Loss
from training.trainer import Trainer, accelerator_for

START = 3
ADVERSARIAL = AdversarialConfig(
    perceptual=0, start=START, r1=1, r1_every=2, lecam=0.01, discriminator=PatchConfig(width=4, halvings=2)
)


def fit(out: Path, task: ReconstructionConfig, at: Callable[[int], None] = lambda number: None, **options: Any) -> None:
    """Train a real image tokenizer on ten pictures. `at` is called with the number of each forward pass."""
    defaults = {
        "steps": 8, "batch_size": 4, "precision": "no", "log_every": 1, "sample_every": 0, "checkpoint_every": 2,
        "ema_length": 0.1, "optimizer": OptimizerConfig(warmup=2), "data": "pictures", "model": IMAGES,
    }  # fmt: skip
    config = TokenizerTrainingConfig(**{**defaults, **options}, out=str(out), task=task)
    accelerator = accelerator_for(config)
    learning = config.task.build(config, PICTURES, PICTURES[:2], accelerator.device)
    losses, passes = learning.losses, iter(range(10**6))

    def failing(batch: Batch, step: int) -> Iterator[Loss]:
        at(next(passes))
        return losses(batch, step)

    learning.losses = failing  # type: ignore[method-assign]
    try:
        Trainer(learning, Examples(True, 0.0), RunFolder(config), accelerator).fit()
    finally:
        gc.collect()
        AcceleratorState._reset_state(reset_partial_state=True)


def test_hinge_by_hand() -> None:
    real, made = torch.tensor([[2.0], [0.5], [-1.0]]), torch.tensor([[-3.0], [0.5], [0.0]])
    assert discriminator_loss("hinge", real, made).item() == pytest.approx((0 + 0.5 + 2) / 3 + (0 + 1.5 + 1) / 3)
    assert generator_loss("hinge", made).item() == pytest.approx(2.5 / 3)


def test_non_saturating_is_the_cross_entropy() -> None:
    real, made = torch.tensor([[2.0], [-1.0]]), torch.tensor([[0.5], [3.0]])
    expected = -(real.sigmoid().log().mean() + (1 - made.sigmoid()).log().mean())
    torch.testing.assert_close(discriminator_loss("non-saturating", real, made), expected)
    torch.testing.assert_close(generator_loss("non-saturating", made), -made.sigmoid().log().mean())


def test_r1_of_a_linear_discriminator_is_its_squared_norm() -> None:
    judge = nn.Sequential(nn.Flatten(), nn.Linear(12, 1))
    images = torch.randn(5, 3, 2, 2, requires_grad=True)
    penalty, weight = r1_penalty(judge(images), images), judge[1].weight
    torch.testing.assert_close(penalty, weight.square().sum())
    (gradient,) = torch.autograd.grad(penalty, weight)
    torch.testing.assert_close(gradient, 2 * weight.detach())


def test_adaptive_weight_of_a_linear_decoder_by_hand() -> None:
    """The last layer gives w * z. Its gradients are z * 3 for the reference and z * 0.5 for the loss."""
    decoder = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1))
    assert last_layer(decoder) is decoder[1].weight
    made = decoder(torch.randn(1, 1, generator=torch.Generator().manual_seed(0)))
    weight = adaptive_weight(3 * made.sum(), 0.5 * made.sum(), last_layer(decoder))
    assert weight.item() == pytest.approx(6, rel=1e-3)
    assert not weight.requires_grad
    assert adaptive_weight(3 * made.sum(), 0 * made.sum(), last_layer(decoder)) == 1e4


def test_lecam_by_hand() -> None:
    real, made = torch.tensor([[1.0], [3.0]]), torch.tensor([[-2.0], [0.0]])
    loss = lecam(real, made, torch.tensor(1.0), torch.tensor(-1.0))
    assert loss.item() == (2**2 + 4**2) / 2 + (3**2 + 1**2) / 2
    judge = Judge(nn.Identity())
    for _ in range(2):
        judge.track(real, made, 0.75)
    assert (judge.real_mean.item(), judge.made_mean.item()) == (0.4375 * 2, 0.4375 * -1)


def test_the_duel_begins_at_its_start_and_is_logged(tmp_path: Path) -> None:
    fit(tmp_path, ADVERSARIAL)
    lines = log(tmp_path)
    always = {"real_logit", "made_logit", "real_right", "made_right", "lecam", "loss", "grad_norm"}
    own = {f"{name}_discriminator" for name in always} | {"adversarial", "adversarial_weight"}
    assert [own & line.keys() for line in lines] == START * [set()] + (8 - START) * [own]
    assert ["r1_discriminator" in line for line in lines] == [step >= START and step % 2 == 1 for step in range(8)]
    assert all(0 <= line["real_right_discriminator"] <= 1 and line["adversarial_weight"] > 0 for line in lines[START:])
    ImageTokenizer.from_pretrained(tmp_path / "model")  # has no tensor of the discriminator


def test_a_rare_penalty_is_not_counted_as_that_of_every_step(tmp_path: Path) -> None:
    """R1 was computed in step 0, of which the operations of all steps are extrapolated: once 13 % too many."""
    for r1 in (0, 1):
        fit(tmp_path / str(r1), replace(ADVERSARIAL, start=0, r1=r1, r1_every=16), steps=1)
    without, rare = (log(tmp_path / str(r1))[-1]["flops"] for r1 in (0, 1))
    assert rare == without > 0


def test_before_its_start_it_computes_what_reconstruction_does(tmp_path: Path) -> None:
    fit(tmp_path / "plain", ReconstructionConfig(perceptual=0), steps=START)
    fit(tmp_path / "duel", ADVERSARIAL, steps=START)
    plain, duel = log(tmp_path / "plain"), log(tmp_path / "duel")
    assert [line["psnr"] for line in plain] == [line["psnr"] for line in duel]


def test_a_strong_adversarial_loss_moves_logits_up(tmp_path: Path) -> None:
    """With the discriminator standing still, the model learns to please it."""
    still = DiscriminatorOptimizerConfig(learning_rate=1e-12)
    task = replace(ADVERSARIAL, l1=0, l2=0, start=0, adversarial=1, adaptive=False, discriminator_optimizer=still)
    fit(tmp_path, task, steps=20, checkpoint_every=100, optimizer=OptimizerConfig(warmup=2, learning_rate=3e-3))
    logits = [line["made_logit_discriminator"] for line in log(tmp_path)]
    assert logits[-1] > logits[0] + 0.05


def test_the_adaptive_weight_of_a_compiled_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes backward through the decoder twice, which compiled graphs refused: at `start`, the run crashed."""
    monkeypatch.setattr("torch._functorch.config.donated_buffer", True)  # the default
    config = TokenizerTrainingConfig(data="pictures", out=str(tmp_path), steps=1, model=IMAGES, task=ADVERSARIAL)
    config.task.build(config, PICTURES, PICTURES[:2], torch.device("cpu"))
    decoder = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 3))
    compiled = torch.compile(decoder, backend="aot_eager")
    compiled(torch.randn(2, 3)).mean().backward()  # as before `start`
    made = compiled(torch.randn(2, 3))
    weight = adaptive_weight(made.square().mean(), made.mean(), last_layer(decoder))
    (made.square().mean() + weight * made.mean()).backward()
    assert 0 < weight < 1e4


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without interruption."""
    out = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda process: {0})
        fit(out, ADVERSARIAL)
    return out


def assert_same_checkpoints(one: Path, other: Path, *more: str) -> None:
    files = [file.relative_to(one) for file in (one / "checkpoints").glob("*/*")]
    assert {file.stem for file in files} == {
        "model", "average", "discriminator", "optimizer", "optimizer_discriminator", "state", *more,
        *(f"optimizer_{name}" for name in more),
    }  # fmt: skip
    assert all((one / file).read_bytes() == (other / file).read_bytes() for file in files)


@pytest.mark.parametrize("died_at", [START, START + 2, START + 4])
def test_a_killed_run_resumes_exactly(straight: Path, tmp_path: Path, died_at: int) -> None:
    """Before the discriminator's first step, before and after a step with R1; LeCAM's averages are in the state."""
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, ADVERSARIAL, at=fail_at(died_at))
    fit(tmp_path, ADVERSARIAL)
    assert_same_run(straight, tmp_path)
    assert_same_checkpoints(straight, tmp_path)
    with safe_open(tmp_path / "checkpoints" / "step-00000008" / "discriminator.safetensors", "pt") as kept:
        assert kept.get_tensor("real_mean") != 0


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "replace"), (files, "save_file")])
def test_a_run_that_fails_while_it_writes_resumes_exactly(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    """At the first such call after step 6, which is in its checkpoint."""
    real, passes = getattr(owner, name), [0]

    def broken(*arguments: Any, **options: Any) -> Any:
        if passes[-1] == 5:
            raise OSError(errno.EIO, "broken disk")
        return real(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="broken disk"):
        patch.setattr(owner, name, broken)
        fit(tmp_path, ADVERSARIAL, at=passes.append, log_every=2)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step-00000002", "step-00000004"}
    fit(tmp_path, ADVERSARIAL)
    assert_same_checkpoints(straight, tmp_path)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    hot = DiscriminatorOptimizerConfig(learning_rate=1e30, clip=1e30)
    with pytest.raises(BadInput, match=r"by step 5 the loss.* is .*(nan|inf).*: start a new run in another --out"):
        fit(tmp_path, replace(ADVERSARIAL, discriminator_optimizer=hot))
    kept = load_file(tmp_path / "checkpoints" / "step-00000004" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in kept.values())


def train_in_float64(out: Path, patch: pytest.MonkeyPatch) -> None:
    """Train for 50 steps with two optimizers, without restarts of dead codes, which are random.

    What the code computes in float32 whatever the dtype is, is float64 too: a rounding to float32 that falls on either
    side of a half would be seen.
    """
    patch.setattr(torch.Tensor, "float", torch.Tensor.double)
    patch.setattr("tokenizer.codebook.replace_dead", lambda codebook, vectors: None)
    torch.set_default_dtype(torch.float64)
    try:
        fit(out, ADVERSARIAL, steps=50, checkpoint_every=50, log_every=10)
    finally:
        torch.set_default_dtype(torch.float32)


if __name__ == "__main__":  # one of two processes
    with pytest.MonkeyPatch.context() as patch:
        train_in_float64(Path(sys.argv[1]), patch)


@pytest.mark.timeout(300)
def test_two_processes_follow_one(
    launch: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Halves of a batch meet in the codebook, in both gradients, in the adaptive weight and in LeCAM's averages."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--multi_gpu", "--num_processes", "2", "--main_process_port", str(port)]  # on CPUs too
    launcher = launch(Path(__file__), tmp_path / "two", options=options)
    _, errors = launcher.communicate(timeout=200)
    assert launcher.returncode == 0, errors
    train_in_float64(tmp_path / "one", monkeypatch)
    for two, one in zip(log(tmp_path / "two"), log(tmp_path / "one"), strict=True):
        assert two.keys() == one.keys()
        for name in one.keys() - {"flops", "batch", "precision", "psnr"}:  # which is a logarithm of each half's mean
            assert two[name] == pytest.approx(one[name], rel=1e-9, abs=1e-9), name
    for name in ("model", "discriminator", "average"):
        one, two = (
            load_file(tmp_path / out / "checkpoints/step-00000050" / f"{name}.safetensors") for out in ("one", "two")
        )
        torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"adversarial": -1.0}, "adversarial is -1.0: must be 0 or more"),
        ({"r1_every": 0}, "r1_every is 0: must be 1 or more"),
        ({"lecam_decay": 1.0}, "lecam_decay is 1.0: must be from 0 to below 1"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        AdversarialConfig(**options)


def test_the_discriminator_is_chosen_by_its_name() -> None:
    """The name of a part inside a part that a flag chose was not understood: only `--task.discriminator.kind`."""
    flags = [
        "--steps",
        "1",
        "--task",
        "adversarial",
        "--task.discriminator",
        "stylegan",
        "--task.discriminator.group",
        "2",
    ]
    assert parse(TokenizerTrainingConfig, flags).task == AdversarialConfig(discriminator=StyleGANConfig(group=2))
