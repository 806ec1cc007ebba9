"""The `tessera` command: its overview, the commands that it starts, and `tessera env`."""

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import get_type_hints

import pytest
import torch

from commands import env, tessera
from commands.tessera import COMMANDS
from diffusion.options import DiffusionTrainingConfig
from sampling.token_backend import TokenBackend
from seq2seq.options import TokenTrainingConfig
from tokenizer.options import TokenizerTrainingConfig
from training.cli import command
from training.command_line import parse
from training.shipped import VARIABLE, shipped, shipped_part

ROOT = Path(__file__).parents[1]
NAMED = [one for one in COMMANDS if one.name]


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int | str | None:
    """Runs the command in this process and returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/tessera", *words])
    try:
        tessera.main()
    except SystemExit as left:
        return left.code
    return 0


def test_the_overview_lists_every_command_and_trainer_without_loading_torch() -> None:
    code = "import sys; from commands.tessera import main; main(); print('torch' in sys.modules)"
    argv = [sys.executable, "-c", code, "--help"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    for one in NAMED:
        assert re.search(rf"^  tessera {one.name} +{one.line}$", done.stdout, re.M)
    for trainer in ("tokenizer", "seq2seq", "diffusion"):
        assert re.search(rf"^  accelerate launch {trainer}/train.py +\w", done.stdout, re.M)
    assert done.stdout.endswith("False\n")


@pytest.mark.parametrize("name", [one.name for one in NAMED])
def test_each_command_runs_under_its_name(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, name, "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: tessera {name} ")
    assert run(monkeypatch, name, "--no_such_thing", "1") == 2
    assert "there is no option 'no_such_thing'" in capsys.readouterr().err


def test_a_command_has_the_name_of_its_module() -> None:
    """Except where that name would say too little."""
    named = {one.name for one in NAMED if one.module.split(".")[1].replace("_", "-") != one.name}
    assert named == {"evaluate"}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/draw.md", "docs/train.md", "docs/evaluate.md"])
def test_commands_on_the_pages_parse(page: str) -> None:
    lines = re.findall(r"^tessera (.*)$", (ROOT / page).read_text().replace("\\\n", " "), re.M)
    assert lines
    for name, *words in map(shlex.split, lines):
        start = importlib.import_module(tessera.named(name).module).main
        if "--import" not in words:  # `test_growth.py` runs those
            parse(next(iter(get_type_hints(start).values())), words)


def test_the_error_for_a_misspelt_command_names_the_nearest_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "genrate", "--prompt", "a fox") == 2
    assert capsys.readouterr().err == "error: there is no command 'genrate'; did you mean 'generate'?\n"
    assert run(monkeypatch, "zzzz") == 2
    assert capsys.readouterr().err == "error: there is no command 'zzzz'; see tessera --help\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("evaluate", ["--model", "m"]),
        ("score", ["--images", "i"]),
        ("compare", ["r"]),
        ("sheet", ["r"]),
        ("reconstruct", ["--model", "m"]),
    ],
)
def test_a_command_whose_package_is_not_installed_says_how_to_install_it(
    name: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As evaluation after `make demo`, which installs only what drawing needs."""
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    assert run(monkeypatch, name, *words, "--out", str(tmp_path / "out")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: the package jsonschema is not installed: run pip install -e ".[eval]"')


def test_env_lists_installed_and_missing_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"": ["torch", "pillow"], "eval": ["scipy", "no-such-package"]}
    monkeypatch.setattr(env, "dependencies", lambda: found)
    monkeypatch.setattr(env, "set_up_cpu", lambda: None)
    assert run(monkeypatch, "env") == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert f"torch {version('torch')}, pillow" in said["packages"]
    assert said["[eval]"].endswith('without no-such-package (run pip install -e ".[eval]" in the folder of this clone)')
    assert "0.1.0" in said["tessera"]
    assert str(ROOT) not in "".join(said.values())
    assert said["sampler"].startswith("engine ")


def test_env_names_the_engine_that_the_sampler_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    from tiny_models import token_model

    from sampling.decode import Sampler
    from seq2seq.packed import named

    device = torch.device("cpu")
    sampler = Sampler(token_model())
    assert TokenBackend.dtype_on("cpu") == torch.float32
    assert env._sampler(device).startswith(f"engine {sampler.engine} in {named(sampler.dtypes)} on cpu: ")


def test_env_lists_the_dependencies_of_the_project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both from a clone and from an installed package."""
    told = env.dependencies()
    assert "torch" in told[""]
    assert {"emoji", "diffusion", "eval", "bench", "dev"} < told.keys()
    lines = [f"{name}>=1" for name in told[""]]
    lines += [f'{name}>=1; extra == "{extra}"' for extra, names in told.items() if extra for name in names]
    monkeypatch.setattr(env, "_ROOT", tmp_path)
    monkeypatch.setattr(env, "requires", lambda package: lines)
    assert env.dependencies() == told


@pytest.mark.parametrize("config", [TokenizerTrainingConfig, TokenTrainingConfig, DiffusionTrainingConfig])
def test_a_trainer_without_options_trains_the_emoji_preset(
    config: type, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It uses the shipped tokenizers and the run folder of its stage, and prints so."""
    seen: list[object] = []
    for argv in ([], ["--config", "emoji"], ["--config=debug", "--data", "x"]):
        monkeypatch.setattr(sys, "argv", ["train.py", *argv])
        command(seen.append, config)
    bare, emoji, debug = seen
    assert bare == emoji != debug
    stage = config.__module__.split(".")[0]
    assert bare.out == f"runs/{stage}"
    said = f"without --config, the options are --config emoji --data {bare.data} "
    if stage != "tokenizer":
        given = {name: ROOT / "checkpoints" / "emoji" / name for name in ("tokenizer", "text")}
        assert (Path(bare.tokenizer), Path(bare.text)) == (given["tokenizer"], given["text"])
        said += f"--tokenizer {given['tokenizer']} --text {given['text']} "
    assert capsys.readouterr().out == f"{said}--out runs/{stage}\n"


def test_only_one_of_several_processes_prints_the_preset(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setenv("RANK", "1")
    command(lambda config: None, TokenizerTrainingConfig)
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_clean_leaves_pictures_of_others() -> None:
    """It deleted `outputs/`, where `generate` writes by default."""
    done = subprocess.run(["make", "-n", "clean"], cwd=ROOT, capture_output=True, text=True, check=True)
    deleted = done.stdout.split()
    assert {"outputs/demo", "outputs/demo-diffusion", "outputs/compare"} <= {*deleted}
    assert not {"outputs", "runs", "checkpoints"} & {*deleted}


def test_the_default_bundle(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert Path(shipped()) == ROOT / "checkpoints" / "emoji"
    monkeypatch.setenv(VARIABLE, "hf://owner/name")
    assert (shipped(), shipped_part("text")) == ("hf://owner/name", "")
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(importlib.import_module("training.shipped"), "_IN_CLONE", tmp_path / "nothing")
    assert (shipped(), shipped_part("text")) == ("", "")
    monkeypatch.chdir(tmp_path)
    for words in (["generate", "--prompt", "x"], ["curves"]):
        assert run(monkeypatch, *words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "give --model FOLDER or --model hf://owner/name, or set TESSERA_BUNDLE" in line
