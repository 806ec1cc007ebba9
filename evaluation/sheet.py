"""The naming test: what do people see in a picture? `python -m evaluation.sheet RESULT RESULT --out R`.

Each rater gets numbered sheets in a folder of their own, `R/rater-1` and so on, and writes into its `answers.csv` what
each picture shows, at first and at second sight, without a list to choose from. Pictures of all results are mixed with
real pictures and their reconstructions, in an order fixed by the seed. A rater sees each prompt once only, so that no
picture gives another away: there are as many raters as kinds of pictures, and each kind is judged on every prompt.

`--answers R/rater-*/answers.csv` then writes `R/marks.csv`: the answers beside the captions, shuffled, and without
whose picture it was. Whoever marks them writes into `right` 1 where the first guess names the thing, 2 where only the
second does, 0 where neither. `--marks R/marks.csv` prints how often each kind was named.
"""

import csv
import io
import random
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.files import utf8_text
from data.grid import grid
from data.splits import fraction
from evaluation.compare import mismatches, named_apart, opened, spelled
from evaluation.metrics import mean
from evaluation.pictures import read_pictures
from evaluation.report import Column
from training.cli import command
from training.config import require
from training.errors import BadInput
from training.files import atomic, claim, inside, locked, write_json, write_text
from training.markdown import tabulated
from training.strict_json import read_json

CONTROLS = ("real", "reconstruction")
_ANSWER = ("sheet", "number", "first", "second", "grade")
_MARK = ("id", "caption", "first", "second", "right")


@dataclass(kw_only=True)
class SheetOptions:
    """Makes sheets of pictures to be named, or marks what was answered."""

    result: list[Path] = field(default_factory=list, metadata={"repeat": True})
    """Result of `evaluation.run`, with its pictures; the flag may be left out: `RESULT RESULT --out R`."""
    count: int = 32
    """Prompts, chosen by a fixed hash."""
    per_sheet: int = 16
    """Pictures a sheet."""
    seed: int = 0
    """Shuffles the pictures."""
    answers: list[Path] = field(default_factory=list, metadata={"repeat": True})
    """What raters answered: CSV files with columns sheet, number, first, second, and grade, which is 2 for what could
    be a real picture, 1 for one with faults and 0 for none at all."""
    marks: Path | None = None
    """The marked `marks.csv`."""
    out: Path
    """Folder to write, with the key."""

    def __post_init__(self) -> None:
        given = [name for name in ("result", "answers", "marks") if getattr(self, name)]
        require(self, "result", len(given) == 1, "given without answers and marks, or one of these instead")
        require(self, "count", self.count >= 1, "1 or more")
        require(self, "per_sheet", 1 <= self.per_sheet <= 100, "from 1 to 100")


def main(options: SheetOptions) -> None:
    """Makes sheets, joins answers with captions, or prints how often each kind of picture was named."""
    if options.result:
        with locked(options.out):
            claim(options.out, "naming test")
            raters = _make(options)
        print(f"{raters} raters: each has sheets and an answers.csv in {options.out / 'rater-N'}")
        return
    key = read_json(options.out / "key.json")
    if options.answers:
        rows = _to_mark(key, options.answers, random.Random(options.seed))
        file = options.out / "marks.csv"
        if file.exists():
            raise BadInput(f"{file}: is there already, and marks in it would be lost; move it away")
        write_text(file, _written(_MARK, rows))
        write_json(options.out / "grades.json", {row["id"]: row["grade"] for row in rows})
        print(f"write 1, 2 or 0 into the column `right` of {file}, then give --marks {file}")
        return
    assert options.marks
    print(_named(key, read_json(options.out / "grades.json"), options.marks))


def assigned(kinds: int, prompts: int) -> list[list[tuple[int, int]]]:
    """(prompt, kind) of each picture that each rater sees, a Latin square: every rater every prompt once, and of each
    prompt every kind by one rater."""
    return [[(i, (i + rater) % kinds) for i in range(prompts)] for rater in range(kinds)]


def _make(options: SheetOptions) -> int:
    """Writes the raters' folders and the key; returns how many raters there are."""
    columns = named_apart([opened(path) for path in options.result])
    if wrong := mismatches(columns):
        raise BadInput(f"these results are not of the same prompts: {'; '.join(wrong)}")
    kinds = {column.name: _drawn(column) for column in columns}
    captions = list(next(iter(kinds.values())))
    controls = {name: dict(zip(captions, _control(columns[0], name, len(captions)), strict=True)) for name in CONTROLS}
    kinds |= controls
    chosen = sorted(captions, key=lambda caption: fraction(f"sheet {caption}"))[: options.count]
    names = list(kinds)
    pictures: dict[str, dict[str, str]] = {}
    for rater, seen in enumerate(assigned(len(names), len(chosen)), start=1):
        folder = options.out / f"rater-{rater}"
        random.Random(f"{options.seed} {rater}").shuffle(seen)
        answers = []
        for first in range(0, len(seen), options.per_sheet):
            part, sheet = seen[first : first + options.per_sheet], 1 + first // options.per_sheet
            files = [kinds[names[kind]][chosen[prompt]] for prompt, kind in part]
            _sheet(folder / f"sheet-{sheet}.png", read_pictures(files, ended_early=True))
            for number, (prompt, kind) in enumerate(part, start=1):
                answers.append({"sheet": sheet, "number": number})
                pictures[f"{rater}.{sheet}.{number}"] = {"caption": chosen[prompt], "kind": names[kind]}
        write_text(folder / "answers.csv", _written(_ANSWER, answers))
    write_json(options.out / "key.json", {"kinds": names, "pictures": pictures})
    return len(names)


def _drawn(column: Column) -> dict[str, Path]:
    """The first picture of each prompt."""
    found: dict[str, Path] = {}
    for picture in column.pictures:
        found.setdefault(str(picture["prompt"]), inside(column.folder, picture["file"]))
    return found


def _control(column: Column, name: str, count: int) -> list[Path]:
    return [inside(column.folder, f"controls/{name}/{i:05d}.png") for i in range(count)]


def _sheet(file: Path, pictures: Tensor) -> None:
    """Pictures at four times their size, numbered, four a row."""
    size = pictures.shape[-1]
    numbers = [str(number) for number in range(1, len(pictures) + 1)]
    with atomic(file) as temporary:
        grid(list(pictures), numbers, columns=4, cell=4 * size).save(temporary, format="PNG")


def _to_mark(key: Mapping[str, Any], files: Iterable[Path], draw: random.Random) -> list[dict[str, str]]:
    """The answers of all raters, each beside the caption of its picture, in an order that gives nothing away."""
    found = []
    for file in files:
        rater = file.resolve().parent.name.removeprefix("rater-")
        for where, row in _rows(file, _ANSWER):
            name = f"{rater}.{row['sheet']}.{row['number']}"
            if name not in key["pictures"]:
                raise BadInput(f"{where}: no picture {row['number']} on sheet {row['sheet']} of rater {rater}")
            if row["grade"] not in ("0", "1", "2"):
                raise BadInput(f"{where}: the grade is {row['grade']!r}; must be 0, 1 or 2")
            found.append({**row, "id": name, "caption": key["pictures"][name]["caption"]})
    unanswered = key["pictures"].keys() - {row["id"] for row in found}
    if unanswered or len(found) != len(key["pictures"]):
        raise BadInput(f"{len(unanswered)} of {len(key['pictures'])} pictures have no answer, or some have two")
    draw.shuffle(found)
    return found


def _named(key: Mapping[str, Any], grades: Mapping[str, str], file: Path) -> str:
    """A table in Markdown: of each kind of picture the shares named and graded, with 95 % intervals."""
    said: dict[str, list[tuple[bool, bool, bool]]] = defaultdict(list)
    for where, row in _rows(file, _MARK):
        if row["id"] not in grades:
            raise BadInput(f"{where}: no picture {row['id']!r} was answered")
        if row["right"] not in ("0", "1", "2"):
            raise BadInput(f"{where}: right is {row['right']!r}; must be 0, 1 or 2")
        kind = key["pictures"][row["id"]]["kind"]
        said[kind].append((row["right"] == "1", row["right"] != "0", grades[row["id"]] == "2"))
    lines = [
        [kind, str(len(said[kind])), *(_share(judged) for judged in zip(*said[kind], strict=True))]
        for kind in key["kinds"] if said[kind]
    ]  # fmt: skip
    return tabulated(["", "pictures", "named at first", "named in two", "could be real"], lines)


def _share(judged: Sequence[bool]) -> str:
    metric = mean(torch.tensor(judged))
    return f"{sum(judged)} ({metric.low:.0%} to {metric.high:.0%})"


def _rows(file: Path, columns: Sequence[str]) -> Iterable[tuple[str, dict[str, str]]]:
    """The rows of a CSV file with these columns, each with its place."""
    reader = csv.DictReader(io.StringIO(utf8_text(file)))
    if missing := set(columns) - {*(reader.fieldnames or [])}:
        raise BadInput(f"{file}: has no column {', '.join(sorted(missing))}")
    for row in reader:
        yield f"{file}, line {reader.line_num}", {name: (row[name] or "").strip() for name in columns}


def _written(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


if __name__ == "__main__":
    sys.argv = spelled(sys.argv, ("--result", "--answers"))
    command(main, SheetOptions)
