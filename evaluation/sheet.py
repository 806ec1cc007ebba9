"""The naming test: how often people name what a picture shows. `python -m evaluation.sheet RESULT RESULT --out R`.

1. The command makes numbered sheets for each rater, in the folders `R/rater-1` and so on. They mix the pictures of all
   results with real pictures and their reconstructions. A rater sees each prompt only once, so there are as many raters
   as kinds of pictures. The raters write what each picture shows into `answers.csv`: a first and a second guess,
   without a list to choose from.
2. `--answers R/rater-*/answers.csv` writes `R/marks.csv`: answers and captions, shuffled, without the kind of picture.
   A person writes into its column `right` 1 if the first guess names the thing, 2 if only the second does, else 0.
3. `--marks R/marks.csv` prints how often each kind was named.
"""

import csv
import io
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from data.files import utf8_text
from data.grid import grid
from data.splits import fraction
from evaluation.compare import mismatches, open_drawn
from evaluation.metrics import mean
from evaluation.pictures import read_pictures
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
    """Make sheets of pictures for raters to name, or evaluate their answers."""

    positional: ClassVar = ("result",)

    result: list[Path] = field(default_factory=list)
    """Result of `evaluation.run` with its pictures. The flag may be left out: `RESULT RESULT --out R`."""
    count: int = 32
    """Number of prompts, chosen by a fixed hash."""
    per_sheet: int = 16
    """Pictures on a sheet."""
    seed: int = 0
    """Seed for the order of the pictures."""
    answers: list[Path] = field(default_factory=list)
    """The raters' answers: CSV files with the columns sheet, number, first, second and grade. The grade is 2 for what
    could be a real picture, 1 for a picture with faults, 0 for anything worse."""
    marks: Path | None = None
    """The completed `marks.csv`."""
    out: Path
    """Folder to write to; it also holds the key."""

    def __post_init__(self) -> None:
        given = [name for name in ("result", "answers", "marks") if getattr(self, name)]
        require(self, "result", len(given) == 1, "given without answers and marks, or one of these instead")
        require(self, "count", self.count >= 1, "1 or more")
        require(self, "per_sheet", 1 <= self.per_sheet <= 100, "from 1 to 100")


def main(options: SheetOptions) -> None:
    """Make sheets, join answers with captions, or print how often each kind of picture was named."""
    if options.result:
        with locked(options.out):
            claim(options.out, "naming test")
            if (file := options.out / "key.json").exists():
                raise BadInput(f"{file}: is there already, and its raters' answers would be lost; choose another --out")
            raters = _make(options)
        print(f"{raters} raters: each has sheets and an answers.csv in {options.out / 'rater-N'}")
        return
    key = read_json(options.out / "key.json")
    if options.answers:
        rows = _to_mark(key, options.answers, random.Random(options.seed))
        file = options.out / "marks.csv"
        if file.exists():
            raise BadInput(f"{file}: is there already, and its marks would be lost; move it away")
        write_text(file, _written(_MARK, rows))
        write_json(options.out / "grades.json", {row["id"]: row["grade"] for row in rows})
        print(f"write 1, 2 or 0 into the column `right` of {file}, then give --marks {file}")
        return
    assert options.marks
    print(_named(key, read_json(options.out / "grades.json"), options.marks))


def assigned(kinds: int, prompts: int) -> list[list[tuple[int, int]]]:
    """The pictures of each rater as pairs (prompt, kind), in a Latin square.

    Every rater sees every prompt once, and one rater sees each pair.
    """
    return [[(i, (i + rater) % kinds) for i in range(prompts)] for rater in range(kinds)]


def _make(options: SheetOptions) -> int:
    """Write the raters' folders and the key; returns the number of raters."""
    columns = open_drawn(options.result)
    if wrong := mismatches(columns):
        raise BadInput(f"these results are not of the same prompts: {'; '.join(wrong)}")
    kinds = {
        column.name: {
            caption: inside(column.folder, column.pictures[i]["file"]) for caption, i in column.first_pictures().items()
        }
        for column in columns
    }
    one, captions = columns[0], columns[0].first_pictures()
    for name in CONTROLS:
        kinds[name] = {caption: inside(one.folder, one.control(name, i)) for caption, i in captions.items()}
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


def _sheet(file: Path, pictures: Tensor) -> None:
    """Write a sheet of numbered pictures, four in a row; those below 256 pixels at up to four times their size."""
    size = pictures.shape[-1]
    numbers = [str(number) for number in range(1, len(pictures) + 1)]
    with atomic(file) as temporary:
        grid(list(pictures), numbers, columns=4, cell=size * max(1, min(4, 256 // size))).save(temporary, format="PNG")


def _to_mark(key: Mapping[str, Any], files: Iterable[Path], rng: random.Random) -> list[dict[str, str]]:
    """The answers of all raters with the captions of their pictures, in random order."""
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
    rng.shuffle(found)
    return found


def _named(key: Mapping[str, Any], grades: Mapping[str, str], file: Path) -> str:
    """A Markdown table of how many pictures of each kind were named, and could be real, with 95 % intervals."""
    marks: dict[str, list[tuple[bool, bool, bool]]] = defaultdict(list)
    for where, row in _rows(file, _MARK):
        if row["id"] not in grades:
            raise BadInput(f"{where}: there is no answer for a picture {row['id']!r}")
        if row["right"] not in ("0", "1", "2"):
            raise BadInput(f"{where}: right is {row['right']!r}; must be 0, 1 or 2")
        kind = key["pictures"][row["id"]]["kind"]
        marks[kind].append((row["right"] == "1", row["right"] != "0", grades[row["id"]] == "2"))
    lines = [
        [kind, str(len(marks[kind])), *(_share(judged) for judged in zip(*marks[kind], strict=True))]
        for kind in key["kinds"] if marks[kind]
    ]  # fmt: skip
    return tabulated(["", "pictures", "named at first", "named in two", "could be real"], lines)


def _share(judged: Sequence[bool]) -> str:
    metric = mean(torch.tensor(judged))
    interval = "" if metric.low is None else f" ({metric.low:.0%} to {metric.high:.0%})"
    return f"{sum(judged)}{interval}"


def _rows(file: Path, columns: Sequence[str]) -> Iterable[tuple[str, dict[str, str]]]:
    """The rows of a CSV file with these columns, each with its file and line."""
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
    command(main, SheetOptions)
