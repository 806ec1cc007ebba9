"""A task with two modules: each learns from its own losses, and interruptions change nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_training_trainer import Fitting, _fresh_accelerator, assert_same_run, fail_at, fit, log  # noqa: F401
from torch import Tensor, nn
from torch.nn import functional as F

from training.batches import Batch
from training.errors import BadInput
from training.options import OptimizerConfig
from training.task import Loss

BEGINS = 7


class Duel(Fitting):
    """A generator and a judge: the judge learns to tell sums of the model from true ones, from step `BEGINS` on."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.judge = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
        self.add("judge", self.judge, OptimizerConfig(learning_rate=0.1, warmup=2))

    def losses(self, batch: Batch, step: int) -> Iterator[Loss]:
        self.at(next(self.passes))
        made = self.modules["model"](batch["x"])
        left = [p.grad for p in self.judge.parameters()]
        yield from self.pleasing(made, batch["y"])
        assert all(p.grad is before for p, before in zip(self.judge.parameters(), left, strict=True))
        if step >= BEGINS:
            yield from self.judging(made, batch["y"])

    def pleasing(self, made: Tensor, true: Tensor) -> Iterator[Loss]:
        yield Loss("model", (made - true).square().mean() - self.judge(made).mean(), {"bias": (made - true).mean()})

    def judging(self, made: Tensor, true: Tensor) -> Iterator[Loss]:
        good, bad = self.modules["judge"](torch.cat([true, made.detach()])).chunk(2)
        told = (good > bad).float().mean()
        yield Loss("judge", F.softplus(-good).mean() + F.softplus(bad).mean(), {"told": told})


class OnlyPleasing(Duel):
    """The model learns only through the judge, which does not learn."""

    def pleasing(self, made: Tensor, true: Tensor) -> Iterator[Loss]:
        yield Loss("model", -self.judge(made).mean(), {})

    def judging(self, made: Tensor, true: Tensor) -> Iterator[Loss]:
        yield from ()


class OnlyJudging(Duel):
    """The model does not learn."""

    def pleasing(self, made: Tensor, true: Tensor) -> Iterator[Loss]:
        yield from ()


def kept(out: Path, step: int, name: str) -> dict[str, Tensor]:
    return load_file(out / "checkpoints" / f"step-{step:08d}" / f"{name}.safetensors")


@pytest.mark.parametrize(("task", "learns"), [(OnlyPleasing, "model"), (OnlyJudging, "judge")])
def test_a_loss_trains_only_the_module_of_its_optimizer(tmp_path: Path, task: type[Duel], learns: str) -> None:
    steps = BEGINS + 1 if learns == "judge" else 2
    fit(tmp_path, task=task, steps=steps, checkpoint_every=1, log_every=100)
    for name in ("model", "judge"):
        before, after = (kept(tmp_path, step, name) for step in (steps - 1, steps))
        moved = [weight for weight in after if not torch.equal(before[weight], after[weight])]
        assert moved == (list(after) if name == learns else [])


def test_each_loss_is_logged_under_its_name(tmp_path: Path) -> None:
    fit(tmp_path, task=Duel)
    lines = log(tmp_path)
    own = {"loss_judge", "told_judge", "grad_norm_judge"}
    assert [own & line.keys() for line in lines] == BEGINS * [set()] + (12 - BEGINS) * [own]
    assert {"loss", "bias", "grad_norm"} <= lines[0].keys()


def test_a_mean_is_over_the_steps_with_that_loss(tmp_path: Path) -> None:
    for every in (1, 12):
        fit(tmp_path / str(every), task=Duel, log_every=every, checkpoint_every=100)
    single, (whole,) = log(tmp_path / "1"), log(tmp_path / "12")
    for name, lines in (("loss", single), ("loss_judge", single[BEGINS:])):
        assert whole[name] == pytest.approx(sum(line[name] for line in lines) / len(lines), rel=1e-5)


@pytest.mark.parametrize("died_at", [2 * 6, 2 * 11])
def test_a_killed_run_of_two_modules_resumes_exactly(tmp_path: Path, died_at: int) -> None:
    """Before the judge's first step, and after it."""
    options: dict[str, Any] = {"task": Duel, "accumulation": 2, "dropout": 0.2, "noise": 0.1, "log_every": 4}
    fit(tmp_path / "straight", **options)
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path / "died", at=fail_at(died_at), **options)
    fit(tmp_path / "died", **options)
    assert_same_run(tmp_path / "straight", tmp_path / "died")
    for file in (tmp_path / "straight" / "checkpoints").glob("*/*"):
        assert file.read_bytes() == Path(str(file).replace("straight", "died")).read_bytes()
    names = {"model", "judge", "average", "optimizer", "optimizer_judge"}
    assert {file.stem for file in (tmp_path / "died" / "checkpoints" / "step-00000012").iterdir()} == {*names, "state"}


def test_checkpoints_change_nothing(tmp_path: Path) -> None:
    for every in (1, 100):
        fit(tmp_path / str(every), task=Duel, checkpoint_every=every)
    assert_same_run(tmp_path / "1", tmp_path / "100")


def test_any_loss_that_is_not_a_number_stops_before_it_is_saved(tmp_path: Path) -> None:
    class Lost(Duel):
        def judging(self, made: Tensor, true: Tensor) -> Iterator[Loss]:
            for loss in super().judging(made, true):
                yield loss._replace(value=loss.value * torch.inf)

    with pytest.raises(BadInput, match=f"by step {BEGINS + 1} the loss_judge is inf and .* norm nan: start a new run"):
        fit(tmp_path, task=Lost)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000005"]


def test_every_optimizer_follows_the_schedule_from_its_own_peak(tmp_path: Path) -> None:
    rates: list[list[float]] = []

    class Noted(Duel):
        def losses(self, batch: Batch, step: int) -> Iterator[Loss]:
            rates.append([one.param_groups[0]["lr"] for one in self.optimizers.values()])
            yield from super().losses(batch, step)

    fit(tmp_path, task=Noted)
    assert rates[:2] == [[0.0005, 0.05], [0.001, 0.1]]
    assert all(judge == pytest.approx(100 * model) for model, judge in rates)
    assert rates[-1][0] < 0.0001
