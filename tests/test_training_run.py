"""The run folder: one trainer at a time, one config, and a log that ends at the last checkpoint."""

import errno
import gc
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from training.errors import BadInput
from training.files import write_json, write_text
from training.options import TrainingConfig
from training.run import RunFolder


@dataclass(kw_only=True)
class Inner:
    """Nested."""

    width: int = 4
    """A field."""
    source: str = ""
    """A model."""


@dataclass(kw_only=True)
class Config(TrainingConfig):
    """A trainer's config."""

    model: Inner = field(default_factory=Inner)
    """A nested one."""


def config(out: Path, **options: object) -> Config:
    return Config(**{"data": "d", "out": str(out), "steps": 9, **options})


DATA = {"train": {"fingerprint": "f00d", "views": 4}, "validation": {"fingerprint": "beef", "views": 1}}


def opened(out: Path, data: dict[str, Any] = DATA, **options: object) -> RunFolder:
    run = RunFolder(config(out, **options))
    run.open(data)
    return run


def refusal(out: Path, **options: object) -> str:
    with pytest.raises(BadInput) as error:
        opened(out, **options)
    message = str(error.value)
    assert str(out) in message
    del error  # whose traceback holds the folder and so its lock
    gc.collect()
    return message


def test_it_records_config_and_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x/train.py", "--out", "a b"])
    opened(tmp_path / "run", cache=Path("some/where"))
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["steps"] == 9
    assert stored["model"] == {"width": 4, "source": ""}
    assert stored["cache"] == "some/where"
    assert (tmp_path / "run" / "command.txt").read_text() == "accelerate launch x/train.py --out 'a b'\n"


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    """The operating system releases the lock when its process ends, for whatever reason."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_training_run import opened
run = opened(Path({str(tmp_path)!r}))
print("open", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        assert "another command is at work" in refusal(tmp_path)
        other.kill()
    opened(tmp_path)


def test_a_folder_is_free_again_when_its_run_is_done(tmp_path: Path) -> None:
    run = opened(tmp_path)
    refusal(tmp_path)
    del run
    gc.collect()
    opened(tmp_path)


def test_another_config_is_refused_by_name(tmp_path: Path) -> None:
    opened(tmp_path)
    assert "batch_size: 64 there, 8 here" in refusal(tmp_path, batch_size=8)
    assert "model.width: 4 there, 5 here" in refusal(tmp_path, model=Inner(width=5))
    both = refusal(tmp_path, seed=1, model=Inner(width=5))
    assert "model.width" in both
    assert "seed: 0 there, 1 here" in both


def test_a_refused_config_leaves_the_old_one(tmp_path: Path) -> None:
    opened(tmp_path)
    before = (tmp_path / "config.json").read_text()
    refusal(tmp_path, seed=1, steps=99)
    assert (tmp_path / "config.json").read_text() == before


def test_intervals_and_the_number_of_steps_may_change(tmp_path: Path) -> None:
    opened(tmp_path)
    opened(
        tmp_path, steps=20, log_every=3, sample_every=4, checkpoint_every=5, workers=1, cache=Path("x"), dry_run=True,
        trackers=["tensorboard"],
    )  # fmt: skip
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 20


def test_an_option_newer_than_the_run_has_its_default(tmp_path: Path) -> None:
    """Each new option made it impossible to resume older runs."""
    opened(tmp_path, model=Inner(width=5))
    file = tmp_path / "config.json"
    older = json.loads(file.read_text())
    del older["accumulation"], older["model"]["width"], older["optimizer"]
    write_json(file, older)
    refused = refusal(tmp_path, accumulation=2, model=Inner(width=5))
    assert "accumulation: 1 there, 2 here" in refused
    assert "model.width: 4 there, 5 here" in refused
    opened(tmp_path)
    assert json.loads(file.read_text())["accumulation"] == 1


def test_other_data_are_refused_once_there_are_checkpoints(tmp_path: Path) -> None:
    other = {**DATA, "train": {"fingerprint": "cafe", "views": 4}}
    opened(tmp_path)
    opened(tmp_path, other)  # nothing was learnt yet
    opened(tmp_path)
    (tmp_path / "checkpoints" / "step-00000005").mkdir(parents=True)
    opened(tmp_path)
    assert "holds a run on other data (train.fingerprint: 'f00d' there, 'cafe' here)" in refusal(tmp_path, data=other)
    assert json.loads((tmp_path / "data.json").read_text()) == DATA
    newer = {**DATA, "train": {**DATA["train"], "seed": 1}}  # an older version did not write it down
    opened(tmp_path, newer)
    assert "(train.seed: 1 there, 2 here)" in refusal(tmp_path, data={**DATA, "train": {**DATA["train"], "seed": 2}})


def test_the_model_that_a_run_starts_from_may_move(tmp_path: Path) -> None:
    """Its path was compared, so the run could not be resumed once it had moved."""
    for name, weights in (("first", b"1"), ("moved", b"1"), ("other", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
    run = tmp_path / "run"
    opened(run, init=tmp_path / "first")
    (run / "checkpoints" / "step-00000005").mkdir(parents=True)
    opened(run, init=tmp_path / "moved")
    assert "holds a run on other data (init: '" in refusal(run, init=tmp_path / "other")
    assert "there, None here" in refusal(run)
    write_json(run / "data.json", DATA)  # as an older version wrote it
    assert f"init: '{tmp_path / 'moved'}' there" in refusal(run, init=tmp_path / "first")
    opened(run, init=tmp_path / "moved")


def test_a_damaged_record_of_the_model_that_a_run_starts_from_is_refused_at_once(tmp_path: Path) -> None:
    """It was read only when the trained model was written. All of the training had to be repeated from the last
    checkpoint, to fail again."""
    first = tmp_path / "first"
    first.mkdir()
    (first / "model.safetensors").write_bytes(b"1")
    (first / "training.json").write_text('{"steps": 3}')
    with pytest.raises(BadInput, match=r"training.json: not a training record: batch_size is missing"):
        opened(tmp_path / "run", init=first)
    gc.collect()
    assert not (tmp_path / "run" / "config.json").exists()
    assert RunFolder(config(tmp_path / "other")).init_record is None


def test_a_frozen_model_may_be_in_another_place(tmp_path: Path) -> None:
    opened(tmp_path, model=Inner(source="a@sha256:1"))
    opened(tmp_path, model=Inner(source="b@sha256:1"))
    assert "model.source: 'b@sha256:1' there" in refusal(tmp_path, model=Inner(source="b@sha256:2"))


def test_a_run_without_a_record_of_its_data_gets_it(tmp_path: Path) -> None:
    opened(tmp_path)
    (tmp_path / "checkpoints" / "step-00000005").mkdir(parents=True)
    (tmp_path / "data.json").unlink()
    opened(tmp_path)
    assert json.loads((tmp_path / "data.json").read_text()) == DATA


def test_a_damaged_config_is_refused(tmp_path: Path) -> None:
    opened(tmp_path)
    gc.collect()
    write_text(tmp_path / "config.json", "{")
    assert "config.json: not valid JSON" in refusal(tmp_path)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "mine")
    with pytest.raises(FileExistsError):
        opened(tmp_path / "file")


def test_leftovers_of_a_killed_trainer_are_removed(tmp_path: Path) -> None:
    opened(tmp_path)
    gc.collect()
    ours = "tessera-0123456789abcdef.tmp"
    write_text(tmp_path / "checkpoints" / f".step-00000010.{ours}" / "model.safetensors", "half")
    write_text(tmp_path / "checkpoints" / "step-00000005" / "state.json", "whole")
    write_text(tmp_path / f".model.{ours}" / "config.json", "half")
    write_text(tmp_path / "latents" / f".train.{ours}" / "latents.npy", "half")
    opened(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        ".lock", ".tessera", "checkpoints", "config.json", "data.json", "command.txt", "latents",
    }  # fmt: skip
    assert not list((tmp_path / "latents").iterdir())
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000005"]


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    """A project with files of these names lost them, and all its files that ended in `.tmp`."""
    theirs = {"log.jsonl": "{}", "model/weights": "x", "config.json": "{}", "data.json": "{}", "a/.b.1.tmp": ""}
    for name, text in theirs.items():
        write_text(tmp_path / name, text)
    assert "holds files that Tessera did not write" in refusal(tmp_path)
    assert {str(f.relative_to(tmp_path)): f.read_text() for f in tmp_path.rglob("*") if f.is_file()} == theirs


@pytest.mark.parametrize("left", [[], [5]])
def test_a_run_whose_checkpoints_were_deleted_is_not_restarted(tmp_path: Path, left: list[int]) -> None:
    """Somebody who deleted checkpoints to save space lost the log at once, and later the model."""
    run = opened(tmp_path, steps=40, checkpoint_every=5)
    for step in left:
        (run.checkpoints / f"step-{step:08d}").mkdir(parents=True)
    run.log({"step": 9, "loss": 1.0})
    del run
    gc.collect()
    run = opened(tmp_path, steps=40, checkpoint_every=5)  # killed, and one of its two last checkpoints was damaged
    run.log({"step": 15, "loss": 1.0})
    del run
    gc.collect()
    assert "has a log up to step 15, but checkpoints only up to step" in refusal(tmp_path, steps=40, checkpoint_every=5)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


def test_a_model_without_checkpoints_is_not_replaced(tmp_path: Path) -> None:
    opened(tmp_path)
    gc.collect()
    write_text(tmp_path / "model" / "config.json", "{}")
    assert "has a model, but checkpoints only up to step 0" in refusal(tmp_path)


def test_the_log_is_rewound_to_the_checkpoint(tmp_path: Path) -> None:
    run = opened(tmp_path)
    for step in range(1, 6):
        run.log({"step": step, "loss": step / 10})
    run.log({"step": 3, "validation": 1.0})
    with run.log_file.open("a") as file:
        file.write('{"step": 2, "lo')  # cut short by the kill
    run.rewind_log(3)
    lines = [json.loads(line) for line in run.log_file.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 3]
    run.rewind_log(0)
    assert run.log_file.read_text() == ""


def test_no_space_names_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(value: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run = opened(tmp_path)
    monkeypatch.setattr(json, "dumps", full)
    with pytest.raises(OSError, match="No space left") as error:
        run.log({"step": 1})
    assert error.value.filename == str(run.log_file)


def test_no_log_needs_no_rewinding(tmp_path: Path) -> None:
    run = opened(tmp_path)
    run.rewind_log(0)
    assert not run.log_file.exists()
