"""Checkpoints hold the complete state and survive being cut short."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from training import checkpoint, ema
from training.errors import BadInput
from training.states import ModuleState, OptimizerState

State = tuple[nn.Module, nn.Module, Optimizer]


def fresh(seed: int) -> State:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1, bias=False))
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return model, ema.averaged_copy(model), AdamW(groups, lr=0.1, betas=(0.8, 0.9), fused=True)


def step(state: State, number: int) -> float:
    model, average, optimizer = state
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(number))
    loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    ema.update(average, model, number, 0.1)
    return loss.item()


def states(state: State) -> dict[str, checkpoint.State]:
    model, average, optimizer = state
    return {
        "model": ModuleState(model), "average": ModuleState(average), "optimizer": OptimizerState(model, optimizer)
    }  # fmt: skip


def save(folder: Path, number: int, state: State) -> None:
    checkpoint.save(folder, number, states(state), write=True)


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, State]:
    """A folder with checkpoints of steps 2 and 4, and the state of step 4."""
    state = fresh(0)
    for number in range(5):
        if number in (2, 4):
            save(tmp_path / "checkpoints", number, state)
        if number < 4:
            step(state, number)
    return tmp_path / "checkpoints", state


def test_resumed_training_is_the_same_to_the_bit(trained: tuple[Path, State]) -> None:
    folder, straight = trained
    resumed = fresh(1)  # other weights, no optimizer state yet
    assert checkpoint.restore(folder, states(resumed)) == 4
    assert [step(resumed, number) for number in range(4, 9)] == [step(straight, number) for number in range(4, 9)]
    for mine, theirs in ((resumed[i].state_dict(), straight[i].state_dict()) for i in (0, 1)):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    groups = [json.dumps(state[2].state_dict()["param_groups"]) for state in (resumed, straight)]
    assert groups[0] == groups[1]


def test_saving_does_not_step_a_new_optimizer(tmp_path: Path) -> None:
    """`torch` takes a step without gradients to initialise the state. AdamW counts that step, so a discriminator that
    starts late would train differently after each checkpoint."""
    waiting = fresh(0)
    save(tmp_path, 3, waiting)
    assert not waiting[2].state
    resumed = fresh(1)
    assert checkpoint.restore(tmp_path, states(resumed)) == 3
    assert not resumed[2].state
    straight = fresh(0)
    assert [step(resumed, number) for number in range(3)] == [step(straight, number) for number in range(3)]


def test_nothing_to_restore_is_step_0(tmp_path: Path) -> None:
    state = fresh(0)
    before = [p.clone() for p in state[0].parameters()]
    assert checkpoint.restore(tmp_path / "missing", states(state)) == 0
    assert all(torch.equal(a, b) for a, b in zip(before, state[0].parameters(), strict=True))


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for number in (5, 10, 100):
        save(tmp_path, number, fresh(0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "folder", 1, states(fresh(0)), write=False)
    assert not (tmp_path / "folder").exists()


def test_a_save_that_fails_leaves_the_older_ones(trained: tuple[Path, State], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, value: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    folder, state = trained
    monkeypatch.setattr(checkpoint, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        save(folder, 6, state)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000002", "step-00000004"]


def truncate(name: str) -> Callable[[Path], None]:
    def damage(last: Path) -> None:
        (last / name).write_bytes((last / name).read_bytes()[:-7])

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        truncate("model.safetensors"),
        truncate("average.safetensors"),
        truncate("optimizer.safetensors"),
        truncate("state.json"),
        lambda last: (last / "optimizer.safetensors").unlink(),
        lambda last: (last / "state.json").unlink(),
        lambda last: (last / "state.json").write_text("{}"),
        lambda last: (last / "state.json").write_text('{"step": 4, "values": {"model": {}, "average": {}}}'),
        lambda last: (last / "state.json").write_bytes(b"\xff"),
    ],
    ids=[
        "model",
        "average",
        "optimizer",
        "state",
        "no optimizer",
        "no state",
        "empty state",
        "state without one",
        "binary state",
    ],
)
def test_a_damaged_checkpoint_is_refused_and_the_previous_one_loads(
    damage: Callable[[Path], None], trained: tuple[Path, State]
) -> None:
    folder, _ = trained
    last = folder / "step-00000004"
    damage(last)
    with pytest.raises(BadInput) as error:
        checkpoint.restore(folder, states(fresh(1)))
    assert str(error.value).startswith(f"{last}: a damaged checkpoint")
    assert "\n" not in str(error.value)
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    assert checkpoint.restore(folder, states(fresh(1))) == 2


def test_no_pickle(trained: tuple[Path, State]) -> None:
    folder, _ = trained
    names = {path.name for path in (folder / "step-00000004").iterdir()}
    assert names == {"model.safetensors", "average.safetensors", "optimizer.safetensors", "state.json"}
    assert json.loads((folder / "step-00000004" / "state.json").read_text())["step"] == 4


def test_a_copy_of_a_checkpoint_is_ignored(tmp_path: Path) -> None:
    """`step-00000005-backup` ended the run with a traceback, and would have been deleted as the oldest checkpoint."""
    for name in ("step-00000005-backup", "step-00000005 copy", "step-", "step-x"):
        (tmp_path / name).mkdir()
    state = fresh(0)
    assert checkpoint.restore(tmp_path, states(state)) == 0
    for number in (5, 10, 15):
        save(tmp_path, number, state)
    assert checkpoint.last_step(tmp_path) == 15
    assert checkpoint.restore(tmp_path, states(fresh(1))) == 15
    assert {path.name for path in tmp_path.iterdir()} == {
        "step-00000005-backup", "step-00000005 copy", "step-", "step-x", "step-00000010", "step-00000015",
    }  # fmt: skip
