"""Compare results: `python -m evaluation.compare A/result.json B/result.json --out R`.

It writes `report.html`, which needs no network, and `report.md`. For two results with pictures it also writes a blind
page, `blind.html`, with its key, `blind-key.json`. On this page a person says which of two pictures is better, without
knowing which model drew it. `--blind A B` chooses two of more results. `--answers` reads the answers that the page
saved.
"""

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from evaluation.metrics import Metric, mean
from evaluation.report import Column, data_uri, html_report, index_by_prompt, markdown_table, render
from evaluation.result import differences, read_result
from sampling.card import HEADLINES
from training.cli import command
from training.config import require
from training.errors import BadInput
from training.files import locked, splice, write_json, write_text
from training.redact import redacted, redacted_path
from training.strict_json import read_json, read_json_lines

_MARK = "<!-- python -m evaluation.compare -->"
"""Marks a page as ours, so that it may be replaced."""
_LIKELIHOODS = {"bits_per_image": "codes", "bits_per_dimension": "latents"}
"""What each likelihood is of."""


@dataclass(kw_only=True)
class CompareOptions:
    """Write one report of several results, after checking that they can be compared."""

    positional: ClassVar = ("result",)

    result: list[Path] = field(default_factory=list)
    """Result file, or a folder with a `result.json`. The flag may be left out: `RESULT RESULT --out R`."""
    out: Path
    """Folder to write to."""
    force: bool = False
    """Compare results of different protocols. The report then begins with the differences."""
    blind: list[Path] = field(default_factory=list)
    """The two results that the blind page shows: `--blind RESULT RESULT`. By default the results with pictures, if
    there are two."""
    answers: Path | None = None
    """JSONL file that the blind page saved, for the win rate. Its key is read from `out`."""
    readme: Path | None = None
    """Markdown file whose text between `<!-- comparison -->` and `<!-- /comparison -->` is replaced by a table of the
    most important metrics."""
    seed: int = 0
    """Seed for the order of the blind pairs."""

    def __post_init__(self) -> None:
        require(self, "result", len(self.result) >= 1, "one result or more")
        shown = {_file(path) for path in self.blind} & {_file(path) for path in self.result}
        require(self, "blind", not self.blind or len(shown) == len(self.blind) == 2, "two of the results")


def main(options: CompareOptions) -> None:
    """Read and check the results, write the report, and print where it is."""
    _require_replaceable(options.out)
    columns = with_codes_in_names(with_unique_names([open_column(path) for path in options.result]))
    mismatch = mismatches(columns)
    if mismatch and not options.force:
        raise BadInput(f"these results cannot be compared: {'; '.join(mismatch)}; --force compares them anyway")
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
            print(f"the blind page shows {len(key['sides'])} prompts that both drew with the same seed")
    if len(pairs) != 2 and options.answers is None:
        print(f"no blind page: it shows two results, but {len(pairs)} have pictures; choose two with --blind A B")
    if options.readme:
        splice(options.readme, "comparison", markdown_table(columns, mismatch, judged, HEADLINES))
    print(f"the comparison is in {options.out / 'report.html'} and {options.out / 'report.md'}")


def _require_replaceable(out: Path) -> None:
    """Raise `BadInput` if a file that would be written exists and this command did not write it."""
    for name in ("report.md", "report.html", "blind.html"):
        file = out / name
        if file.exists() and not (file.is_file() and _MARK in file.read_text(encoding="utf-8", errors="replace")):
            raise BadInput(f"{file}: is there already and is not a comparison; choose another --out")
    key = out / "blind-key.json"
    if key.exists() and "sides" not in read_json(key):
        raise BadInput(f"{key}: is there already and is not the key of a blind page; choose another --out")


def mismatches(columns: Sequence[Column]) -> list[str]:
    """The fields of the protocol in which any result differs from the first."""
    first, *others = columns
    found = []
    for other in others:
        kinds = first.result["kind"], other.result["kind"]
        if (kinds[0] == "reconstruction") != (kinds[1] == "reconstruction"):
            found.append(f"kind: {kinds[0]} and {kinds[1]}")
        found += differences(_protocol(first, other), _protocol(other, first))
    return list(dict.fromkeys(found))


def blind(first: Column, second: Column, seed: int) -> tuple[str, dict[str, Any]]:
    """The blind page with the pairs of prompt and seed that both results have, shuffled; and its key.

    The key says, for each pair, on which side the picture of each result is.
    """
    rng = random.Random(seed)
    in_first, in_second = index_by_prompt(first.pictures), index_by_prompt(second.pictures)
    both = [(first.pictures[in_first[key]], second.pictures[in_second[key]]) for key in in_first if key in in_second]
    rng.shuffle(both)
    pairs, sides = [], {}
    for number, (picture, other) in enumerate(both):
        uris = [_require_uri(first, picture["file"]), _require_uri(second, other["file"])]
        flipped = rng.random() < 0.5
        left, right = reversed(uris) if flipped else uris
        pairs.append({"id": number, "prompt": picture.get("prompt", ""), "left": left, "right": right})
        sides[str(number)] = {"left": int(flipped), "right": int(not flipped)}
    # an id of the page, because a browser stores the answers of all local pages in one place
    page = hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:16]
    key = {"page": page, "names": [first.name, second.name], "sides": sides}
    return render("blind.html", pairs=pairs, page=page), key


def win_rate(answers: Path, key_file: Path, names: Sequence[str]) -> dict[str, Metric]:
    """The fraction of pairs in which each result was preferred, a tie counting half, with 95 % intervals over pairs.

    The file may hold the answers of several people, one after another; a pair counts once, with their mean. Raises
    `BadInput` for unusable answers, and for a key of other results than `names`.
    """
    key = read_json(key_file)
    if sorted(key.get("names") or []) != sorted(names):
        raise BadInput(f"{key_file}: is of {key.get('names')}, not of {list(names)}; give those two with --blind A B")
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
        raise BadInput(f"{answers}: there is no answer in it")
    wins = torch.tensor([sum(points) / len(points) for points in chosen.values()])
    losses = 1 - wins
    if ((wins == 0) | (wins == 1)).all():
        wins, losses = wins.bool(), losses.bool()
    first, second = key["names"]
    return {first: mean(wins), second: mean(losses)}


def _require_uri(column: Column, name: str) -> str:
    """As `data_uri`. Raises `BadInput` for a picture that does not exist."""
    uri = data_uri(column.folder, name)
    if not uri:
        raise BadInput(f"{column.folder}: no file {name[:200]!r}; keep a result in one folder with its pictures")
    return uri


def open_column(path: Path) -> Column:
    """Read a result as a column of the comparison. Paths in it are shortened to their last names."""
    folder = path if path.is_dir() else path.parent
    result = read_result(path)
    result = {**result, "name": redacted_path(result["name"]), "subject": redacted(result.get("subject", {}))}
    pictures = result.get("pictures", []) if result["kind"] == "generation" else []
    return Column(name=result["name"], folder=folder, result=result, pictures=pictures)


def open_drawn(paths: Sequence[Path]) -> list[Column]:
    """Read results of `evaluation.run` as columns with unique names. Raises `BadInput` for one of other pictures."""
    columns = [open_column(path) for path in paths]
    for column, path in zip(columns, paths, strict=True):
        if not column.pictures:
            raise BadInput(f"{path}: has no pictures that tessera evaluate drew; give one of its results")
    return with_unique_names(columns)


def with_unique_names(columns: Sequence[Column]) -> list[Column]:
    """The columns with unique names: equal names get their folders, and if these are equal too, numbers."""
    names = [column.name for column in columns]
    longer = [f"{c.name} ({redacted_path(c.folder)})" if names.count(c.name) > 1 else c.name for c in columns]
    unique = [f"{name}, {n}" if longer.count(name) > 1 else name for n, name in enumerate(longer, start=1)]
    return [replace(column, name=name) for column, name in zip(columns, unique, strict=True)]


def with_codes_in_names(columns: Sequence[Column]) -> list[Column]:
    """The columns; if they have several image tokenizers, with an id of these in the names of their likelihoods.

    Likelihoods of different codes or latents do not compare, so they must not share a row of the table.
    """
    names = [
        {name: _predicted(column, name) for name in _LIKELIHOODS.keys() & column.result["metrics"].keys()}
        for column in columns
    ]
    several = {name for name in _LIKELIHOODS if len({its[name] for its in names if name in its}) > 1}
    return [
        replace(column, result={**column.result, "metrics": {
            f"{name} ({its[name]})" if name in several else name: metric
            for name, metric in column.result["metrics"].items()
        }})
        for column, its in zip(columns, names, strict=True)
    ]  # fmt: skip


def _predicted(column: Column, likelihood: str) -> str:
    """What a likelihood of a column is of: `codes` or `latents`, and the start of their id."""
    what = _LIKELIHOODS[likelihood]
    return f"{what} {column.result['subject'][f'{what}_id'][:8]}"


def _file(path: Path) -> Path:
    return (path / "result.json" if path.is_dir() else path).resolve()


def _protocol(column: Column, other: Column) -> dict[str, Any]:
    """The protocol of a result as far as it must agree with that of the other.

    Seed and pictures a prompt count only if `evaluation.run` drew the pictures of both. Names of reference and suite do
    not count, because their hashes do.
    """
    generated = column.result["kind"] == other.result["kind"] == "generation"
    of_drawing = () if generated else ("seed", "num_images")
    protocol = {name: value for name, value in column.result["protocol"].items() if name not in of_drawing}
    for part in ("reference", "suite"):
        if protocol.get(part):
            protocol[part] = {name: value for name, value in protocol[part].items() if name != "name"}
    return protocol


if __name__ == "__main__":
    command(main, CompareOptions)
