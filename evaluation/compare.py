"""Puts results side by side: `python -m evaluation.compare A/result.json B/result.json --out R`.

Writes `report.html`, which opens offline, `report.md`, and for two results with pictures (of more, `--blind A B` says
which two) `blind.html`, a page on which a person says which of two pictures is better without knowing whose it is,
with its `blind-key.json`. Answers saved from that page come back with `--answers`.
"""

import hashlib
import json
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from evaluation.metrics import Metric, mean
from evaluation.report import HEADLINES, Column, embedded, html_report, markdown_table, numbered, render
from evaluation.result import differences, read_result
from training.cli import command
from training.config import require
from training.errors import BadInput
from training.files import locked, splice, write_json, write_text
from training.redact import redacted, redacted_path
from training.strict_json import read_json, read_json_lines

_MARK = "<!-- python -m evaluation.compare -->"
"""What says in a page that it may be replaced."""


@dataclass(kw_only=True)
class CompareOptions:
    """Writes one report of several results, after checking that they can be compared."""

    result: list[Path] = field(default_factory=list, metadata={"repeat": True})
    """Result file, or a folder with a `result.json`; the flag may be left out: `RESULT RESULT --out R`."""
    out: Path
    """Folder to write."""
    force: bool = False
    """Compare results of different protocols; the report then begins with what differs."""
    blind: list[Path] = field(default_factory=list, metadata={"repeat": True})
    """Two of the results, whose pictures the blind page shows: `--blind RESULT RESULT`. By default those with pictures,
    where they are two."""
    answers: Path | None = None
    """JSONL that the blind page saved, for the win rate; its key is read from `out`."""
    readme: Path | None = None
    """Markdown file in which to replace what stands between `<!-- comparison -->` and `<!-- /comparison -->` by the
    most telling of the figures."""
    seed: int = 0
    """Shuffles the blind pairs."""

    def __post_init__(self) -> None:
        require(self, "result", len(self.result) >= 1, "one result or more")
        theirs = [_file(path) for path in self.result]
        unlike = {_file(path) for path in self.blind} & {*theirs}
        require(self, "blind", not self.blind or len(unlike) == len(self.blind) == 2, "two of the results")


def main(options: CompareOptions) -> None:
    """Reads, checks, writes, and says where."""
    _require_ours(options.out)
    columns = bits_apart(named_apart([opened(path) for path in options.result]))
    mismatch = mismatches(columns)
    if mismatch and not options.force:
        raise BadInput(f"these results cannot be compared: {'; '.join(mismatch)}; --force compares them all the same")
    chosen = [_file(path) for path in options.blind]
    pairs = [column for column, path in zip(columns, options.result, strict=True)
             if column.pictures and (not chosen or _file(path) in chosen)]  # fmt: skip
    judged = {}
    if options.answers:
        judged = win_rate(options.answers, options.out / "blind-key.json", [column.name for column in pairs])
    table, page = markdown_table(columns, mismatch, judged), html_report(columns, mismatch, judged)
    with locked(options.out):
        write_text(options.out / "report.md", f"{table}\n{_MARK}\n")
        write_text(options.out / "report.html", page)
        if len(pairs) == 2 and options.answers is None:
            page, key = blind(pairs[0], pairs[1], options.seed)
            write_text(options.out / "blind.html", page)
            write_json(options.out / "blind-key.json", key)
    if len(pairs) != 2 and options.answers is None:
        print(f"no blind page: it is of two results, but {len(pairs)} have pictures; choose two with --blind A B")
    if options.readme:
        splice(options.readme, "comparison", markdown_table(columns, mismatch, judged, HEADLINES))
    print(f"the comparison is in {options.out / 'report.html'} and {options.out / 'report.md'}")


def _require_ours(out: Path) -> None:
    """Raises `BadInput` where a file that would be written is there and somebody else's."""
    for name in ("report.md", "report.html", "blind.html"):
        file = out / name
        if file.exists() and not (file.is_file() and _MARK in file.read_text(encoding="utf-8", errors="replace")):
            raise BadInput(f"{file}: is there already and is no comparison; choose another --out")
    key = out / "blind-key.json"
    if key.exists() and "sides" not in read_json(key):
        raise BadInput(f"{key}: is there already and is no key to a blind page; choose another --out")


def mismatches(columns: Sequence[Column]) -> list[str]:
    """Every field of the protocol in which a result differs from the first."""
    first, *others = columns
    found = []
    for other in others:
        kinds = first.result["kind"], other.result["kind"]
        if (kinds[0] == "reconstruction") != (kinds[1] == "reconstruction"):
            found.append(f"kind: {kinds[0]} and {kinds[1]}")
        found += differences(_protocol(first, other), _protocol(other, first))
    return list(dict.fromkeys(found))


def blind(first: Column, second: Column, seed: int) -> tuple[str, dict[str, Any]]:
    """The page of shuffled pairs that both drew, and the key that says whose picture was where."""
    draw = random.Random(seed)
    mine, theirs = numbered(first.pictures), numbered(second.pictures)
    both = [(first.pictures[mine[key]], second.pictures[theirs[key]]) for key in mine if key in theirs]
    draw.shuffle(both)
    pairs, sides = [], {}
    for number, (picture, other) in enumerate(both):
        shown = [_shown(first, picture["file"]), _shown(second, other["file"])]
        flipped = draw.random() < 0.5
        left, right = reversed(shown) if flipped else shown
        pairs.append({"id": number, "prompt": picture.get("prompt", ""), "left": left, "right": right})
        sides[str(number)] = {"left": int(flipped), "right": int(not flipped)}
    # a browser keeps the answers of all local pages together
    page = hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:16]
    key = {"page": page, "names": [first.name, second.name], "sides": sides}
    return render("blind.html", pairs=pairs, page=page), key


def win_rate(answers: Path, key_file: Path, names: Sequence[str]) -> dict[str, Metric]:
    """Share of pairs in which each result was preferred, ties counting half; 95 % interval over the pairs.

    The answers of several people may stand one after another: a pair counts once, as the mean of what they said of it.
    Raises `BadInput` for unusable answers, or a key of others than the results called `names`.
    """
    key = read_json(key_file)
    if sorted(key.get("names") or []) != sorted(names):
        raise BadInput(f"{key_file}: is of {key.get('names')}, not of {list(names)}; choose its two with --blind A B")
    chosen: dict[str, list[float]] = defaultdict(list)
    for where, answer in read_json_lines(answers):
        try:
            side = key["sides"][str(answer["id"])]
            if answer["page"] != key["page"]:
                raise ValueError
            chosen[str(answer["id"])].append(0.5 if answer["choice"] == "tie" else 1.0 - side[answer["choice"]])
        except (ValueError, KeyError, TypeError):
            raise BadInput(f"{where}: not an answer to a pair of {key_file}") from None
    if not chosen:
        raise BadInput(f"{answers}: there is not one answer in it")
    wins = torch.tensor([sum(said) / len(said) for said in chosen.values()])
    losses = 1 - wins
    if ((wins == 0) | (wins == 1)).all():
        wins, losses = wins.bool(), losses.bool()
    first, second = key["names"]
    return {first: mean(wins), second: mean(losses)}


def _shown(column: Column, name: str) -> str:
    picture = embedded(column.folder, name)
    if not picture:
        raise BadInput(f"{column.folder}: no file {name[:200]!r}; results are compared where their pictures are")
    return picture


def opened(path: Path) -> Column:
    """A result with its folder, where its pictures are; of paths in it the last names alone."""
    folder = path if path.is_dir() else path.parent
    result = read_result(path)
    result = {**result, "name": redacted_path(result["name"]), "subject": redacted(result.get("subject", {}))}
    pictures = result.get("pictures", []) if result["kind"] == "generation" else []
    return Column(name=result["name"], folder=folder, result=result, pictures=pictures)


def named_apart(columns: Sequence[Column]) -> list[Column]:
    """The columns with the folder beside names that occur twice, and their number where that does not suffice."""
    names = [column.name for column in columns]
    told = [f"{c.name} ({redacted_path(c.folder)})" if names.count(c.name) > 1 else c.name for c in columns]
    apart = [f"{name}, {n}" if told.count(name) > 1 else name for n, name in enumerate(told, start=1)]
    return [replace(column, name=name) for column, name in zip(columns, apart, strict=True)]


def bits_apart(columns: Sequence[Column]) -> list[Column]:
    """The columns with likelihoods named by the codes that they are of, where those differ: they do not compare."""
    codes = {column.result["subject"]["codes_id"] for column in columns if _bits(column)}
    if len(codes) < 2:
        return list(columns)
    return [replace(column, result={**column.result, "metrics": _named_by_codes(column)}) for column in columns]


def _bits(column: Column) -> set[str]:
    return {"bits_per_image", "bits_per_dimension"} & column.result["metrics"].keys()


def _named_by_codes(column: Column) -> dict[str, Any]:
    return {
        f"{name} (codes {column.result['subject']['codes_id'][:8]})" if name in _bits(column) else name: metric
        for name, metric in column.result["metrics"].items()
    }


def spelled(argv: Sequence[str], lists: Sequence[str] = ("--result", "--blind")) -> list[str]:
    """`A B --out R --blind A B` as `--result A --result B --out R --blind A --blind B`.

    Each of `lists` is said before every word that follows it; the first one may be left out.
    """
    words, flag = [argv[0]], lists[0]
    for word in argv[1:]:
        if word.startswith("-"):
            flag = word
        if flag not in lists:
            words.append(word)
        elif word != flag:
            words += [flag, word]
    return words


def _file(path: Path) -> Path:
    return (path / "result.json" if path.is_dir() else path).resolve()


def _protocol(column: Column, other: Column) -> dict[str, Any]:
    """What a result must share with the other: seeds only of pictures that `evaluation.run` drew; names never, for
    what they name has its hash."""
    drawn = column.result["kind"] == other.result["kind"] == "generation"
    protocol = {name: value for name, value in column.result["protocol"].items() if drawn or name != "seeds"}
    for part in ("reference", "suite"):
        if protocol.get(part):
            protocol[part] = {name: value for name, value in protocol[part].items() if name != "name"}
    return protocol


if __name__ == "__main__":
    sys.argv = spelled(sys.argv)
    command(main, CompareOptions)
