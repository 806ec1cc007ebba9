import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.inspect import InspectOptions, main
from training.cli import command


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for i, split in enumerate(["train", "train", "validation"]):
        (folder / split).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20 + 10 * i, 10 + 10 * i), "red").save(folder / split / f"{i}.png")
    (folder / "train" / "3.png").write_text("spoiled")
    texts = {"train/0.png": "one", "train/1.png": "one two", "validation/2.png": "one two three", "train/3.png": "four"}
    lines = [json.dumps({"file_name": file, "text": text}) for file, text in texts.items()]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["inspect", *arguments])
    command(main, InspectOptions)


def test_inspect(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(monkeypatch, str(photos), "--size", "24", "--cache", str(tmp_path / "cache"), "--out", str(out))
    said, warned = capsys.readouterr()
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert lines[0].startswith("source photos-24/all, 3 pictures, fingerprint ")
    assert lines[1:9] == [
        "train 2 pictures",
        "validation 1 pictures",
        "originals width 20 to 40, median 30; height 10 to 30, median 20; 2 smaller than 24 px",
        "captions 3, 1 a picture",
        "words 1 to 3, median 2",
        "characters 3 to 13, median 7",
        "cannot be used 1",
        "train/3.png: not a picture",
    ]
    assert lines[-1] == f"contact sheet {out}/contact-sheet.png"
    assert "warning: photos-24/all: 1 unusable picture: train/3.png (not a picture)" in warned
    with Image.open(out / "contact-sheet.png") as sheet:
        assert np.asarray(sheet)[20, 20].tolist() == [255, 0, 0]


def test_names_in_metadata_are_escaped_on_the_terminal(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "train" / "3.png").rename(photos / "train" / "\x1b[2J.png")
    file = photos / "metadata.jsonl"
    file.write_text(file.read_text().replace("3.png", r"\u001b[2J.png"))
    run(monkeypatch, str(photos), "--size", "24", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out"))
    for said in capsys.readouterr():
        assert "\x1b[2J" not in said
        assert r"train/\x1b[2J.png" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["nowhere"],
            'error: nowhere: no such file or folder; give "emoji", "scenes", a folder of pictures, a parquet or tar',
        ),
        (["emoji:noto", "--split", "test"], "error: emoji: no split 'test'; there are train, heldout-"),
        (["emoji:noto", "--size", "0"], "error: size is 0: pictures can be 16 to 1024 pixels wide"),
        (["emoji:noto", "--siz", "32"], "error: "),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch, *arguments)
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith(message)


def test_strict_names_what_cannot_be_used(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(monkeypatch, str(photos), "--cache", str(tmp_path / "cache"), "--strict", "true")
    assert exit_.value.code == 2
    assert "error: photos-64/all: 1 unusable picture: train/3.png (not a picture)\n" in capsys.readouterr().err
