"""Read suites from files: COCO captions, and any table with a column of prompts.

captions_val2014.json      {"images": [...], "annotations": [{"image_id": 9, "caption": "a cat"}, ...]}
PartiPrompts.tsv           Prompt, Category, Challenge, Note
drawbench.csv              Prompts, Category
prompts.jsonl              {"prompt": "a cat", "category": "animals"}
prompts.txt                a prompt on each line, or category, tab, prompt
"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.files import text_lines, utf8_text
from data.splits import fraction
from evaluation.suites.prompts import Prompt, Suite
from training.errors import BadInput
from training.strict_json import read_json, read_json_lines

COCO_COUNT = 30_000
"""Captions in the usual zero-shot protocol (DALL-E, GLIDE, Parti): 30,000 of the validation set, chosen at random."""

MAX_BYTES = 2**28
"""Largest file of prompts: 256 MiB, eight times the size of the captions of COCO's validation set."""

_TEXT = ("prompt", "prompts", "caption", "text")


def read_suite(path: Path) -> Suite:
    """Read the prompts of a file in the format of its suffix. Raises `BadInput` with what is wrong and where."""
    readers = {".json": _coco, ".jsonl": _jsonl, ".csv": _table, ".tsv": _table, ".txt": read_lines}
    if path.suffix not in readers:
        raise BadInput(f"{path}: not a suite of prompts; give one of {', '.join(readers)}")
    prompts = readers[path.suffix](path)
    if not prompts:
        raise BadInput(f"{path}: there is no prompt in it")
    return Suite(name=path.name, prompts=prompts)


def read_lines(path: Path) -> list[Prompt]:
    """Read a prompt from each line; the text before a tab is its category."""
    prompts = []
    for number, line in enumerate(text_lines(path), start=1):
        category, _, text = line.rpartition("\t")
        if text.strip():
            prompts.append(Prompt(text=text.strip(), category=category.strip()))
        elif category.strip():
            raise BadInput(f"{path}, line {number}: no prompt after the tab; the text before it is the category")
    return prompts


def _jsonl(path: Path) -> list[Prompt]:
    return [_row(row, where) for where, row in read_json_lines(path, MAX_BYTES)]


def _table(path: Path) -> list[Prompt]:
    file = io.StringIO(utf8_text(path), newline="")
    # in tab-separated files, quotation marks belong to the prompts
    rows = (
        csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if path.suffix == ".tsv" else csv.DictReader(file)
    )
    try:
        return [_row(row, f"{path}, row {number}") for number, row in enumerate(rows, start=1)]
    except csv.Error as error:
        raise BadInput(f"{path}: not a table ({error})") from None


def _row(row: Any, where: str) -> Prompt:
    if not isinstance(row, Mapping):
        raise BadInput(f"{where}: not an object with a prompt")
    if None in row:  # what is left over of a row of a table
        raise BadInput(f"{where}: has more values than columns; in CSV, put a prompt with commas between double quotes")
    fields = {str(name).strip().lower(): value for name, value in row.items()}
    column = next((name for name in _TEXT if name in fields), None)
    if column is None:
        raise BadInput(f"{where}: no column of prompts; its name must be one of {', '.join(_TEXT)}")
    text = fields[column]
    if not isinstance(text, str) or not text.strip():
        raise BadInput(f"{where}: the {column} is empty")
    category, challenge = (str(fields.get(name) or "").strip() for name in ("category", "challenge"))
    return Prompt(text=text.strip(), category=category, challenge=challenge)


def _coco(path: Path) -> list[Prompt]:
    """Read at most 30,000 captions, the first ones in hash order."""
    try:
        annotations = read_json(path, MAX_BYTES)["annotations"]
        captions = [(f"{a['image_id']}/{a.get('id', i)}", str(a["caption"])) for i, a in enumerate(annotations)]
    except (KeyError, TypeError) as error:
        raise BadInput(
            f"{path}: not COCO captions, which have annotations with image_id and caption ({error})"
        ) from None
    captions = sorted(captions, key=lambda pair: fraction(pair[0]))[:COCO_COUNT]
    return [Prompt(text=" ".join(caption.split()), key=key) for key, caption in captions if caption.strip()]
