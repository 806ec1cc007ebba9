"""Benchmark of the evaluation: `python -m evaluation.bench`.

It times features of pictures beside the bare network on a prepared batch, in turns in one run. It also times the
scoring of 1,000 pictures, from pixels to all metrics. The features of the real pictures are computed before, as they
are cached from the second scoring on.
"""

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.emoji import SOURCE
from evaluation.features import Lite, extract
from evaluation.harness import JudgeOptions, open_setup
from evaluation.suites import open_suite
from sampling.bench import in_turns, machine
from training.cli import command
from training.config import require
from training.files import write_json


@dataclass(frozen=True, kw_only=True)
class HarnessBenchOptions:
    """Time features and scoring on pictures of noise."""

    pictures: int = 1000
    """Pictures to score, one for each prompt; fewer if the suite has fewer prompts."""
    size: int = 64
    """Width and height of the pictures, in pixels."""
    batch: int = 32
    """Batch size in the comparison with the bare network."""
    repeats: int = 25
    """Timed runs; the median is reported."""
    suite: str = f"{SOURCE}@train"
    """Suite of the prompts."""
    cache: Path | None = None
    """Folder for prepared pictures and features. By default the user's cache folder."""
    json: Path = Path("outputs/bench-harness.json")
    """File for the results."""

    def __post_init__(self) -> None:
        for name in ("pictures", "size", "batch", "repeats"):
            require(self, name, getattr(self, name) >= 1, "1 or more")


def main(options: HarnessBenchOptions) -> None:
    """Time features and scoring, and print and write the results."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (options.pictures, 3, options.size, options.size), generator=generator).byte()
    rows = [time_features(variant, pictures[: options.batch], options.repeats) for variant in (0, 1)]
    for row in rows:
        print(
            f"{row['network']}: {row['images_per_second']:.1f} images/s, {row['share']:.0%} of the bare network's "
            f"{row['bare_images_per_second']:.1f}"
        )
    count, seconds = time_scoring(pictures, options)
    print(f"{count} pictures scored by lite0 and lite1 in {seconds:.0f} s, with the features of the real ones cached")
    result = {"machine": machine("cpu"), "features": rows, "pictures": count, "scoring_seconds": seconds}
    write_json(options.json, result)
    print(f"the results are in {options.json}")


def time_features(variant: int, pictures: Tensor, repeats: int) -> dict[str, Any]:
    """Images/s of features from pixels, and of the bare network on a prepared batch."""
    network = Lite(variant)
    batch = torch.randn(len(pictures), 3, network.size, network.size).contiguous(memory_format=torch.channels_last)
    variants = {
        "ours": lambda: extract(network, pictures, batch_size=len(pictures)),
        "bare": lambda: network._network(batch),
    }
    times = in_turns(variants, repeats, "cpu", network.name)
    ours, bare = (len(pictures) / statistics.median(times[name]) for name in ("ours", "bare"))
    return {"network": network.name, "images_per_second": ours, "bare_images_per_second": bare, "share": ours / bare}


def time_scoring(pictures: Tensor, options: HarnessBenchOptions) -> tuple[int, float]:
    """The number of pictures that were scored, and the seconds that it took."""
    suite = open_suite(options.suite, options.pictures, options.cache)
    setup = open_setup(suite, options.size, JudgeOptions(device="cpu", cache=options.cache))
    pictures = pictures[: len(suite.prompts)]
    setup.judge.compute_real_features()
    with tempfile.TemporaryDirectory() as folder:
        setup.judge.cache = Path(folder)  # an earlier benchmark may have cached features of the same noise
        begin = time.perf_counter()
        setup.judge.score(pictures, suite.prompts, paired=bool(setup.originals))
        return len(pictures), time.perf_counter() - begin


if __name__ == "__main__":
    command(main, HarnessBenchOptions)
