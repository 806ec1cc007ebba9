"""Average a run's weights after several of its steps: `python -m sampling.average --run RUN --out MODEL`."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sampling.backend import backend_class
from sampling.options import BACKENDS
from training.cli import command
from training.errors import BadInput
from training.files import atomic, claim, write_json
from training.pretrained import PretrainedModel
from training.record import FILE as RECORD
from training.record import read_record
from training.strict_json import read_json

_KIND = "an average"
_FILES = r"(config|training)\.json|model\.safetensors|README\.md"
"""Names of what is written."""


@dataclass(kw_only=True)
class AverageOptions:
    """Average models that a run kept (`--keep_every`) into one.

    It can draw better than the last of them, or worse, so evaluate both (P. Izmailov et al., arXiv 1803.05407; M.
    Wortsman et al., arXiv 2203.05482).
    """

    run: Path
    """Run folder of a token model or a diffusion model."""
    step: list[int] = field(default_factory=list)
    """Step whose model is averaged. Repeat the flag for more steps, or to count one twice. By default all that the run
    kept."""
    out: Path
    """Model folder to write."""


def main(options: AverageOptions) -> None:
    """Write the mean of the models that a run kept, with the record of the last of them."""
    folders = _kept(options.run, options.step)
    model, records = mean([_loaded(folder) for folder in folders]), [read_record(folder) for folder in folders]
    claim(options.out, _KIND, replacing=_FILES)  # and replace only what this command wrote
    with atomic(options.out) as temporary:
        claim(temporary, _KIND)
        model.to(torch.bfloat16).save_pretrained(temporary)
        if all(records):
            write_json(temporary / RECORD, merged(records))
    print(f"the mean of {', '.join(folder.name for folder in folders)} is in {options.out}")


def mean(models: Sequence[PretrainedModel]) -> PretrainedModel:
    """A model whose parameters are the means of those of `models`, which are of one shape."""
    result = copy.deepcopy(models[-1])
    with torch.no_grad():
        for target, *values in zip(result.parameters(), *(model.parameters() for model in models), strict=True):
            target.copy_(torch.stack(values).mean(0))
    return result


def merged(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The record of the mean of a run's models: that of the longest training, and all steps that are averaged."""
    longest = max(records, key=lambda one: one["steps"])
    return {**longest, "averaged": [one["steps"] for one in records]}


def _kept(run: Path, steps: Sequence[int]) -> list[Path]:
    """The folders of a run's models after `steps`; without any, of all. Raises `BadInput` where one is missing."""
    paths = sorted((run / "averages").glob("step-" + 8 * "[0-9]"))
    there = {int(path.name.removeprefix("step-")): path for path in paths}
    wanted = list(steps) or list(there)
    if len(wanted) < 2 or set(wanted) - there.keys():
        kept = ", ".join(map(str, there)) or "none; train with --keep_every"
        raise BadInput(f"{run}: give two steps or more whose models are in averages/; there are {kept}")
    return [there[step] for step in wanted]


def _loaded(folder: Path) -> PretrainedModel:
    """A model that draws, in float32. Raises `BadInput` for others: a mean of codebooks is no codebook."""
    classes = {(one := backend_class(kind).model_class).__name__: one for kind in BACKENDS.kinds}
    found = read_json(folder / "config.json", max_bytes=2**20).get("model")
    if found not in classes:
        names = ", ".join(classes)
        raise BadInput(f"{folder}: holds the model {found}; only models that draw can be averaged: {names}")
    return classes[found].from_pretrained(folder, dtype=torch.float32)


if __name__ == "__main__":
    command(main, AverageOptions)
