"""Trackers get the log through Accelerate. Missing ones are reported in one line."""

import sys
from typing import Any

import pytest
from accelerate import tracking
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from accelerate.utils import LoggerType
from test_training_trainer import _fresh_accelerator, fit, log  # noqa: F401

from training import trackers
from training.cli import command
from training.config import flatten
from training.errors import BadInput
from training.options import TrainingConfig
from training.trackers import require_trackers


class Notebook(GeneralTracker):
    """A tracker that records what it gets."""

    name = "tensorboard"  # Accelerate takes no other names than its own
    requires_logging_directory = True
    told: list[Any]

    def __init__(self, project: str, folder: str) -> None:
        super().__init__()
        self.told.append((project, folder))

    @property
    def tracker(self) -> None:
        return None

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.told.append(values)

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        self.told.append((step, values))

    def finish(self) -> None:
        self.told.append("finished")


def test_a_tracker_gets_config_and_log(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Notebook, "told", [], raising=False)
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "tensorboard", Notebook)
    for module in (trackers, tracking):
        monkeypatch.setattr(module, "get_available_trackers", lambda: [LoggerType.TENSORBOARD])
    fit(tmp_path / "run", steps=4, log_every=2, sample_every=4, trackers=["tensorboard"])
    begun, config, *lines, finished = Notebook.told
    assert begun == ("tessera", str(tmp_path / "run"))
    assert config["optimizer.learning_rate"] == 1e-3
    assert config["cache"] == "None"
    assert finished == "finished"
    speed = {"images_per_second", "tokens_per_second"}
    told = [{"step": step, **{k: v for k, v in values.items() if k not in speed}} for step, values in lines]
    assert told == log(tmp_path / "run")
    assert [step for step, _ in lines] == [2, 4, 4]
    fit(tmp_path / "run", steps=6)  # another time without


def test_options_for_trackers_are_numbers_and_text() -> None:
    assert flatten({"a": 1, "b": {"c": 0.5, "d": {"e": None}}, "f": [1, 2], "g": "text", "h": True}) == {
        "a": 1, "b.c": 0.5, "b.d.e": "None", "f": "[1, 2]", "g": "text", "h": True,
    }  # fmt: skip


def test_a_missing_tracker_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate ignores trackers that are not installed."""
    with pytest.raises(BadInput, match=r"trackers: there is no 'wandbee'; there are aim, .*tensorboard.*wandb"):
        require_trackers(["wandbee"])
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: [LoggerType.WANDB])
    require_trackers(["wandb"])
    with pytest.raises(BadInput, match="trackers: tensorboard is not installed; install its package"):
        require_trackers(["wandb", "tensorboard"])


def test_trackers_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[TrainingConfig] = []
    argv = ["--data", "d", "--out", "o", "--steps", "1", "--trackers", "tensorboard", "--trackers", "wandb"]
    monkeypatch.setattr(sys, "argv", ["train.py", *argv])
    command(seen.append, TrainingConfig)
    assert seen[0].trackers == ["tensorboard", "wandb"]
