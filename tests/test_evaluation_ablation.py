"""`python -m evaluation.ablation`: runs of equal compute, judged by the same commands, in one table."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from diffusion.options import DiffusionTrainingConfig
from evaluation import ablation
from evaluation.reconstruct import ReconstructOptions
from evaluation.run import RunOptions
from seq2seq.options import TokenTrainingConfig
from tokenizer.options import TokenizerTrainingConfig
from training.cli import command
from training.command_line import parse
from training.presets import presets
from training.strict_json import read_json

TRAINERS: dict[str, type[Any]] = {
    "tokenizer/train.py": TokenizerTrainingConfig,
    "seq2seq/train.py": TokenTrainingConfig,
    "diffusion/train.py": DiffusionTrainingConfig,
}
JUDGES: dict[str, type[Any]] = {"evaluation.reconstruct": ReconstructOptions, "evaluation.run": RunOptions}
ROWS = {"plain, small": "", "large one": "--size 2"}
JUDGE = {"all": "evaluation.some --model {run}/model", "new styles": "evaluation.other"}


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands, which are not run: a step costs 100, or 300 with `--size 2`, and 50 more with `--late true`."""
    commands: list[list[str]] = []

    def fake(*words: str) -> None:
        commands.append([*words])
        out = Path(words[words.index("--out") + 1])
        out.mkdir(parents=True, exist_ok=True)
        cost = 100 + 200 * ("2" in words) + 50 * ("--late" in words)
        (out / "log.jsonl").write_text(json.dumps({"step": 1, "flops": cost}) + "\n")
        if words[0] == "-m":
            (out / "deep").mkdir()
            metric = {"value": float(len(commands)), "low": None, "high": None, "higher_is_better": True}
            (out / "deep" / "result.json").write_text(json.dumps({"metrics": {"good": metric, "more": metric}}))

    monkeypatch.setattr(ablation, "_python", fake)
    return commands


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: Path, *flags: str) -> str:
    words = ["--train", "tokenizer/train.py --size 1", "--flops", "3000", "--rows", json.dumps(ROWS),
             "--judge", json.dumps(JUDGE), "--out", str(out), *flags]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["ablation", *words])
    try:
        command(ablation.main, ablation.AblationOptions)
    except SystemExit as left:
        assert left.code == 2
        return capsys.readouterr().err
    return capsys.readouterr().out


def test_rows_cost_the_same_and_stand_in_one_table(
    ran: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = call(monkeypatch, capsys, tmp_path, "--count=--late true", "--metrics", "good")
    counted = [words for words in ran if words[0] != "-m" and words[words.index("--steps") + 1] == "1"]
    trained = [words for words in ran if words[0] != "-m" and words not in counted]
    assert ["--late" in words for words in counted + trained] == [True] * 2 + [False] * 2
    assert [words[words.index("--steps") + 1] for words in trained] == ["20", "9"]  # 3000 / 150 and 3000 / 350
    assert next(words[1:4] for words in ran if words[0] == "-m") == [
        "evaluation.some", "--model", str(tmp_path / "plain-small" / "model")
    ]  # fmt: skip
    assert (tmp_path / "table.md").read_text().strip() in said
    head, _, *rows = (tmp_path / "table.md").read_text().splitlines()
    assert [cell.strip() for cell in head.split("|")[1:-1]] == [
        "", "steps", "all, deep: good", "new styles, deep: good"
    ]  # fmt: skip
    assert [cell.strip() for cell in rows[1].split("|")[1:-1]] == ["large one", "9", "7", "8"]


def test_a_row_that_is_there_is_not_trained_again(
    ran: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = call(monkeypatch, capsys, tmp_path)
    figures = read_json(tmp_path / "large-one" / "figures.json")
    assert (figures["steps"], figures["flops_of_step"]) == (10, 300.0)
    ran.clear()
    assert call(monkeypatch, capsys, tmp_path) == first
    assert not ran
    assert "plain-small: is of other flags or another table" in call(monkeypatch, capsys, tmp_path, "--flops", "9")


def test_a_command_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = call(monkeypatch, capsys, tmp_path / "out", "--train", "nothing.py")
    assert "this command ended with code 2: python nothing.py --steps 1" in said
    assert "flops is -1.0: must be greater than 0" in call(monkeypatch, capsys, tmp_path, "--flops", "-1")


def test_rows_that_share_a_folder_are_refused(
    ran: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second one was refused as one of other flags, when the first was trained."""
    said = call(monkeypatch, capsys, tmp_path, "--rows", json.dumps({"shift 1": "", "shift +1": "--size 2"}))
    assert "'shift 1' and 'shift +1' share a folder: names must differ in letters or digits" in said
    assert not ran


@pytest.mark.parametrize("name", presets(ablation.AblationOptions))
def test_the_presets_are_tables_of_flags_that_exist(name: str) -> None:
    options = parse(ablation.AblationOptions, ["--config", name, "--out", "runs/ablation"])
    for flags in options.rows.values():
        trainer, *words = [*shlex.split(options.train), *shlex.split(flags)]
        parse(TRAINERS[trainer], [*words, "--out", "runs/row"])
    for command_line in options.judge.values():
        judge, *words = shlex.split(command_line)
        parse(JUDGES[judge], [*words, "--out", "judged"])
