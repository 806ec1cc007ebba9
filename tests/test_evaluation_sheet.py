"""The naming test: `evaluation.sheet`."""

import csv
import itertools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from data.grid import to_pil
from evaluation import copies, sheet
from evaluation.result import header, write_result
from training.cli import command

SUBJECT = {"backend": "x", "codes_id": "x", "pixels_id": "x", "model_id": "x", "options": {}}
CAPTIONS = ["a fox", "a fox", "a cat", "a dog", "a bee"]


def result(folder: Path, name: str, shade: int) -> Path:
    """A result of five prompts, two with the same words, and two seeds. Its pictures have one shade and a little."""
    for where, colour in (("pictures", shade), ("controls/real", 200), ("controls/reconstruction", 100)):
        (folder / where).mkdir(parents=True)
        for i in range(len(CAPTIONS)):
            picture = to_pil(torch.full((3, 16, 16), colour + i, dtype=torch.uint8))
            for number in (2 * i, 2 * i + 1) if where == "pictures" else (i,):
                picture.save(folder / where / f"{number:05d}.png")
    protocol = {
        "metrics_version": 5, "reference": {"name": "r", "fingerprint": "f", "count": 5}, "networks": {},
        "resizer": "z", "suite": {"name": "s", "hash": "h", "count": 5}, "seed": 0, "num_images": 2,
        "count": 10, "image_size": 16,
    }  # fmt: skip
    scored = {"count": 10, "metrics": {}, "categories": {}, "notes": [], "controls": {}}
    write_result(folder / "result.json", {
        **header("generation", name, protocol), "subject": SUBJECT, **scored,
        "pictures": [{"file": f"pictures/{2 * i + seed:05d}.png", "prompt": text, "seed": seed, "scores": {}}
                     for i, text in enumerate(CAPTIONS) for seed in range(2)],
    })  # fmt: skip
    return folder


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    monkeypatch.setattr(sys, "argv", ["sheet", *map(str, arguments)])
    try:
        command(sheet.main, sheet.SheetOptions)
    except SystemExit as left:
        assert left.code == 2
        return capsys.readouterr().err
    return capsys.readouterr().out


def test_every_rater_sees_every_prompt_once_and_every_kind_is_seen_on_every_prompt() -> None:
    seen = sheet.assigned(4, 10)
    assert [sorted(prompt for prompt, _ in its) for its in seen] == [list(range(10))] * 4
    assert set(itertools.chain(*seen)) == set(itertools.product(range(10), range(4)))


def test_from_results_to_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    results = [result(tmp_path / "a", "one", 10), result(tmp_path / "b", "two", 50)]
    said = call(monkeypatch, capsys, *results, "--count", "3", "--per_sheet", "2", "--out", out)
    assert said.startswith("4 raters")

    key = json.loads((out / "key.json").read_text())
    assert key["kinds"] == ["one", "two", "real", "reconstruction"]
    shades = {"one": 10, "two": 50, "real": 200, "reconstruction": 100}
    for name, its in key["pictures"].items():
        rater, number_of_sheet, number = map(int, name.split("."))
        picture = Image.open(out / f"rater-{rater}" / f"sheet-{number_of_sheet}.png")
        assert picture.getpixel((8 + (number - 1) * 72 + 32, 8 + 32)) == (
            (shades[its["kind"]] + CAPTIONS.index(its["caption"]),) * 3
        )
    assert "picture" not in (out / "rater-1" / "answers.csv").read_text()

    files = [out / f"rater-{rater}" / "answers.csv" for rater in range(1, 5)]
    for rater, file in enumerate(files, start=1):
        with file.open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        assert len(rows) == 3
        for row in rows:
            kind = key["pictures"][f"{rater}.{row['sheet']}.{row['number']}"]["kind"]
            row |= {"first": "a fox, red", "grade": "2" if kind == "real" else "0"}
        with file.open("w", newline="") as lines:
            writer = csv.DictWriter(lines, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    call(monkeypatch, capsys, "--answers", *files, "--out", out)
    text = (out / "marks.csv").read_text()
    assert "real" not in text.replace("reconstruction", "")  # the marker is not told whose picture it was
    rows = list(csv.DictReader(text.splitlines()))
    assert sorted(row["caption"] for row in rows) == sorted([i["caption"] for i in key["pictures"].values()])
    assert {row["first"] for row in rows} == {"a fox, red"}

    right = {"one": "0", "two": "2", "real": "1", "reconstruction": "1"}
    marks = "id,caption,first,second,right\n" + "".join(
        f"{row['id']},c,f,s,{right[key['pictures'][row['id']]['kind']]}\n" for row in rows
    )
    (out / "marks.csv").write_text(marks)
    table = call(monkeypatch, capsys, "--marks", out / "marks.csv", "--out", out).splitlines()
    # Wilson's interval of 0 in 3 ends at z^2 / (3 + z^2)
    assert [line.split("|")[1:6] for line in table[2:]] == [
        [" one ", " 3 ", " 0 (0% to 56%) ", " 0 (0% to 56%) ", " 0 (0% to 56%) "],
        [" two ", " 3 ", " 0 (0% to 56%) ", " 3 (44% to 100%) ", " 0 (0% to 56%) "],
        [" real ", " 3 ", " 3 (44% to 100%) ", " 3 (44% to 100%) ", " 3 (44% to 100%) "],
        [" reconstruction ", " 3 ", " 3 (44% to 100%) ", " 3 (44% to 100%) ", " 0 (0% to 56%) "],
    ]

    said = call(monkeypatch, capsys, "--answers", *files, "--out", out)
    assert "marks.csv: is there already" in said
    answers = [file.read_text() for file in files]
    said = call(monkeypatch, capsys, *results, "--count", "3", "--per_sheet", "2", "--out", out)
    assert "key.json: is there already" in said  # the same command replaced all answers by empty ones
    assert [file.read_text() for file in files] == answers
    (out / "marks.csv").write_text(marks.replace(",1\n", ",yes\n", 1))
    assert "right is 'yes'; must be 0, 1 or 2" in call(monkeypatch, capsys, "--marks", out / "marks.csv", "--out", out)


def test_unusable_results_answers_and_marks_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, other = result(tmp_path / "a", "one", 10), result(tmp_path / "b", "two", 50)
    text = (other / "result.json").read_text()
    (other / "result.json").write_text(text.replace('"hash": "h"', '"hash": "other"'))
    assert "suite.hash" in call(monkeypatch, capsys, first, other, "--out", tmp_path / "out")
    shutil.rmtree(first / "controls" / "real")
    assert "controls/real/00000.png" in call(monkeypatch, capsys, first, "--out", tmp_path / "out")
    assert "result" in call(monkeypatch, capsys, "--out", tmp_path / "out")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "letter.txt").write_text("dear")
    result(tmp_path / "c", "one", 10)
    assert "files that Tessera did not write" in call(
        monkeypatch, capsys, tmp_path / "c", "--out", tmp_path / "foreign"
    )


@pytest.mark.parametrize(("module", "options"), [(sheet, sheet.SheetOptions), (copies, copies.CopiesOptions)])
def test_results_without_drawn_pictures_are_refused(
    module: Any, options: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A result of `tessera score` gave empty sheets, or a traceback."""
    drawn, scored = result(tmp_path / "a", "one", 10), result(tmp_path / "b", "two", 50)
    content = json.loads((scored / "result.json").read_text())
    (scored / "result.json").write_text(json.dumps({**content, "kind": "pictures"}))
    for results in ([scored], [drawn, scored]):
        monkeypatch.setattr(sys, "argv", ["command", *map(str, results), "--out", str(tmp_path / "out")])
        with pytest.raises(SystemExit):
            command(module.main, options)
        assert f"{scored}: has no pictures that tessera evaluate drew" in capsys.readouterr().err
        assert not (tmp_path / "out" / "key.json").exists()


def test_a_single_picture_has_no_interval() -> None:
    """`--count 1` ended in a traceback, after all raters had answered."""
    assert sheet._share([True]) == "1"
    assert sheet._share([True, True]) == "2 (34% to 100%)"
