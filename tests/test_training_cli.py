"""Exit codes of commands, and one line for mistakes of the user and errors of the machine."""

import errno
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from training.cli import command
from training.errors import BadInput
from training.files import write_text
from training.options import TrainingConfig

COMMAND = (
    "from training.cli import command; from training.options import TrainingConfig; command(print, TrainingConfig)"
)
ARGV = ["--data", "d", "--out", "o", "--steps", "1"]


@pytest.fixture(autouse=True)
def _restored_warnings() -> Callable[[], None]:
    """Undoes the change of `warnings.showwarning` by `command`, which would affect all tests in this process."""
    with warnings.catch_warnings():
        yield


def run(main: Callable[[TrainingConfig], None], monkeypatch: pytest.MonkeyPatch, argv: list[str] = ARGV) -> int | str:
    """Runs `main` as a command in this process and returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["prog", *argv])
    try:
        command(main, TrainingConfig)
    except SystemExit as left:
        return left.code or 0
    return 0


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([*ARGV, "--seed", "-1"], "TrainingConfig.seed is -1: must be from 0 to 2147483647"),
        ([*ARGV, "--sede", "1"], "did you mean 'seed'?"),
    ],
)
def test_bad_input_leaves_one_line_and_code_2(argv: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *argv], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert done.stdout == ""


def test_done_is_0(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[TrainingConfig] = []
    assert run(seen.append, monkeypatch) == 0
    assert seen == [TrainingConfig(data="d", out="o", steps=1)]


def test_bad_input_from_main_is_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def main(config: TrainingConfig) -> None:
        raise BadInput("nothing\nfits")

    assert run(main, monkeypatch) == 2
    assert capsys.readouterr().err == "error: nothing fits\n"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "no space left on the disk"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "no permission"),
        (errno.EROFS, "read-only"),
    ],
)
def test_errors_of_the_operating_system_are_2(
    number: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refuse(self: Path, text: str, **_: object) -> int:
        raise OSError(number, "refused", str(self))

    def main(config: TrainingConfig) -> None:
        write_text(tmp_path / "file", "text")

    monkeypatch.setattr(Path, "write_text", refuse)
    assert run(main, monkeypatch) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert str(tmp_path) in line
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_is_needed_is_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("mine")

    def main(config: TrainingConfig) -> None:
        write_text(tmp_path / "taken" / "file", "text")

    assert run(main, monkeypatch) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "taken") in line
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def main(config: TrainingConfig) -> None:
        raise ZeroDivisionError

    def unusual(config: TrainingConfig) -> None:
        raise OSError(errno.EIO, "broken disk")

    with pytest.raises(ZeroDivisionError):
        run(main, monkeypatch)
    with pytest.raises(OSError, match="broken disk"):
        run(unusual, monkeypatch)


def test_interrupted_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def main(config: TrainingConfig) -> None:
        raise KeyboardInterrupt

    assert run(main, monkeypatch) == 130


def test_control_characters_in_messages_are_escaped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Escape sequences in file names or metadata cleared the screen, or wrote another message."""

    def bad(config: TrainingConfig) -> None:
        raise BadInput("no such key: \x1b[2J\x1b]0;owned\x07 \u202etxt.exe \udcff")

    def warned(config: TrainingConfig) -> None:
        warnings.warn("left out: a\rb\x9b2J\nerror: not ours", UserWarning, stacklevel=1)

    def refused(config: TrainingConfig) -> None:
        raise FileNotFoundError(errno.ENOENT, "no", "\x1b[2J")

    for main in (bad, warned, refused):
        run(main, monkeypatch)
    said = capsys.readouterr().err
    assert said.splitlines() == [
        r"error: no such key: \x1b[2J\x1b]0;owned\x07 \u202etxt.exe \udcff",
        r"warning: left out: a b\x9b2J error: not ours",
        r"error: no such file or folder: \x1b[2J",
    ]


def test_a_message_that_quotes_a_whole_file_is_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(config: TrainingConfig) -> None:
        raise BadInput(f"file: holds {'x' * 100_000}: must be short")

    run(main, monkeypatch)
    (line,) = capsys.readouterr().err.splitlines()
    assert len(line) == len("error: ") + 500
    assert line.startswith("error: file: holds x")
    assert line.endswith("x: must be short")


def test_help_is_0(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(print, monkeypatch, ["--help"]) == 0
    assert "--optimizer.learning_rate" in capsys.readouterr().out


def test_warnings_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def main(config: TrainingConfig) -> None:
        warnings.warn("mind the gap", UserWarning, stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        run(main, monkeypatch)
    assert capsys.readouterr().err == "warning: mind the gap\n"


COUNT = "from training.cli import for_people\nwith for_people():\n    for i in range(10_000):\n        print(i)"


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["-c", "from commands.tessera import main; main()"], 0),
        (["-c", COMMAND, "--help"], 0),
        (["-c", COUNT], 141),
        (["-u", "-c", COUNT], 141),
    ],
    ids=["overview", "help", "long", "unbuffered"],
)
def test_output_that_nobody_reads_ends_quietly(argv: list[str], code: int) -> None:
    """`tessera --help | head -1` ended in a traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, *argv], stdout=writer, stderr=subprocess.PIPE, check=False, timeout=60,
        env=os.environ | {"PYTHONUNBUFFERED": ""},
    )  # fmt: skip
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode == code


def test_another_broken_pipe_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def main(config: TrainingConfig) -> None:
        raise BrokenPipeError(errno.EPIPE, "a worker's")

    with pytest.raises(BrokenPipeError):
        run(main, monkeypatch)
