"""Find the training picture nearest to each drawn picture: `python -m evaluation.copies RESULT --out R`.

Training pictures are compared as the image tokenizer reconstructs them. So a picture that has exactly the codes of a
training picture is equal to it, but for rounding. As a baseline for pictures that copy nothing, the reconstructions of
the suite's real pictures are compared as well, each with all training pictures but itself.

It writes `R/copies.json`, and for each result a sheet of pictures above the nearest training pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from data.captioned import CaptionedImages
from data.emoji import SOURCE
from data.grid import grid
from data.source import open_source
from data.splits import TRAIN, fraction
from evaluation.compare import open_drawn
from evaluation.controls import reconstructed
from evaluation.features import digests
from evaluation.metrics import mean
from evaluation.pictures import read_pictures
from evaluation.report import Column, format_metric
from evaluation.result import metrics_to_dict
from sampling.picture_files import require_replaceable, write_picture
from sampling.pipeline import load
from training.cli import command
from training.config import require
from training.errors import BadInput
from training.files import inside, locked, write_json
from training.markdown import tabulated
from training.shipped import shipped
from training.strict_json import read_json

FORMAT = "tessera-copies"
ROUNDING = 2
"""Levels, of 255, by which a pixel of the same codes may differ if decoded in another batch or on another machine."""
_SHEET = {"Software": "python -m evaluation.copies", "Title": "pictures above the training pictures nearest to them"}
_AT_ONCE = 1024


@dataclass(kw_only=True)
class CopiesOptions:
    """Find the training picture nearest to each drawn picture, and count copies."""

    positional: ClassVar = ("result",)

    result: list[Path] = field(default_factory=list)
    """Result of `evaluation.run` with its pictures. The flag may be left out: `RESULT RESULT --out R`."""
    model: str = field(default_factory=shipped)
    """Bundle whose image tokenizer to use: a folder or `hf://owner/name`."""
    data: str = SOURCE
    """Training data, as given to the trainers; its split `train` is used."""
    shown: int = 16
    """Pictures on a sheet, chosen by a fixed hash of their captions."""
    cache: Path | None = None
    """Folder for prepared pictures; by default the user's cache folder."""
    device: str = "auto"
    """Device to compute on: `auto` (a GPU if there is one), `cpu`, `cuda`, `mps`, or another of torch's."""
    out: Path
    """Folder to write to."""

    def __post_init__(self) -> None:
        require(self, "result", len(self.result) >= 1, "one result or more")
        require(self, "shown", self.shown >= 1, "1 or more")


def main(options: CopiesOptions) -> None:
    """Compare the pictures, write the report and the sheets, and print a table."""
    columns = open_drawn(options.result)
    report = options.out / "copies.json"
    if report.exists() and read_json(report).get("format") != FORMAT:
        raise BadInput(f"{report}: is there already and is not a report of copies; choose another --out")
    sheets = [options.out / f"nearest-{n}.png" for n in range(1, len(columns) + 1)]
    for sheet in sheets:
        require_replaceable(sheet, _SHEET)
    files_by_column = [[inside(column.folder, picture["file"]) for picture in column.pictures] for column in columns]
    tokenizer = load(options.model, device=options.device).tokenizer
    size = tokenizer.config.image_size
    made_by_column = [_read(files, size) for files in files_by_column]
    training = open_source(options.data, size=size, split=TRAIN, cache=options.cache)
    known = reconstructed(tokenizer, training)
    found = {}
    with locked(options.out):
        for column, made, sheet in zip(columns, made_by_column, sheets, strict=True):
            found[column.name] = _compared(column, made, training, known, sheet, options.shown)
        write_json(report, {"format": FORMAT, "training": training.fingerprint, "results": found})
    print(_table(found))


def _read(files: Sequence[Path], size: int) -> Tensor:
    """Read drawn pictures, uint8 (N, 3, size, size). Raises `BadInput` for other sizes."""
    made = read_pictures(files, ended_early=True)
    if made.shape[-1] != size:
        raise BadInput(
            f"{files[0]}: {made.shape[-1]} px, but the image tokenizer makes {size} px: evaluate without --upscale, "
            "or give the --model that drew it"
        )
    return made


def nearest(pictures: Tensor, known: Tensor, allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Find the nearest picture of `known` for each picture.

    Args:
        pictures: uint8 (N, 3, H, W).
        known: uint8 (M, 3, H, W).
        allowed: bool (N, M), False where two pictures are not to be compared; at least one True in a row.

    Returns:
        indices (N,) int64, and root-mean-square distances over pixels and channels, (N,) float32, from 0 to 255.
    """
    flat = pictures.flatten(1).float()
    best, where = torch.full((len(flat),), torch.inf), torch.zeros(len(flat), dtype=torch.long)
    for start in range(0, len(known), _AT_ONCE):
        part = known[start : start + _AT_ONCE].flatten(1).float()
        squares = flat.square().sum(1)[:, None] + part.square().sum(1) - 2 * flat @ part.T
        if allowed is not None:
            squares = squares.masked_fill(~allowed[:, start : start + _AT_ONCE], torch.inf)
        least, at = squares.min(1)
        where = torch.where(least < best, at + start, where)
        best = torch.minimum(least, best)
    difference = flat - known[where].flatten(1).float()  # again, because the expanded square above loses precision
    return where, difference.square().mean(1).sqrt()


def _compared(
    column: Column, made: Tensor, training: CaptionedImages, known: Tensor, sheet: Path, shown: int
) -> dict[str, Any]:
    """The entry of one result in `copies.json`; also writes its sheet."""
    prompts = [str(picture["prompt"]) for picture in column.pictures]
    where, distance = nearest(made, known)
    same = (made.int() - known[where].int()).abs().flatten(1).amax(1) <= ROUNDING
    captions = [training.captions(i) for i in range(len(training))]
    asked_for = torch.tensor([text in captions[i] for text, i in zip(prompts, where.tolist(), strict=True)])
    order = sorted(range(len(prompts)), key=lambda i: fraction(f"nearest {prompts[i]}"))[:shown]
    labels = [prompts[i] for i in order] + [f"{captions[int(where[i])][0]} ({distance[i]:.0f})" for i in order]
    write_picture(sheet, grid([*made[order], *known[where[order]]], labels, columns=len(order)), _SHEET)
    metrics = {
        "distance": mean(distance, clusters=prompts, higher_is_better=False),
        "same_codes": mean(same, clusters=prompts),
        "nearest_is_asked_for": mean(asked_for, clusters=prompts),
    }
    if (column.folder / "controls" / "reconstruction").is_dir():
        metrics["distance_real"] = mean(_real(column, training, known), higher_is_better=False)
    return {
        "metrics": metrics_to_dict(metrics),
        "pictures": [
            {"file": picture["file"], "prompt": text, "nearest": training.key(int(i)),
             "distance": round(float(d), 3), "same_codes": bool(s)}
            for picture, text, i, d, s in zip(column.pictures, prompts, where, distance, same, strict=True)
        ],
    }  # fmt: skip


def _real(column: Column, training: CaptionedImages, known: Tensor) -> Tensor:
    """The distance of each reconstructed real picture of the suite to the nearest training picture but itself, (N,).

    Itself is every training picture with the same pixels; other pictures may have the same caption.
    """
    real, rebuilt = (
        read_pictures([inside(column.folder, column.control(name, i)) for i in column.first_pictures().values()])
        for name in ("real", "reconstruction")
    )
    keys = digests(training)
    is_other = torch.tensor([[own != key for key in keys] for own in digests(real)])
    return nearest(rebuilt, known, is_other)[1]


def _table(found: dict[str, Any]) -> str:
    head = ["", *next(iter(found.values()))["metrics"]]
    rows = [[name, *map(format_metric, entry["metrics"].values())] for name, entry in found.items()]
    return tabulated(head, rows)


if __name__ == "__main__":
    command(main, CopiesOptions)
