"""How fast the harness is: `python -m evaluation.bench`.

Features of pictures beside the bare network on a ready batch, in turns in one run; and a thousand pictures scored, from
their pixels to every figure, with the real side already known, as it is from the second score on.
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
from evaluation.harness import JudgeOptions, open_real
from evaluation.suites import open_suite
from sampling.bench import in_turns, machine
from training.cli import command
from training.config import require
from training.files import write_json


@dataclass(frozen=True, kw_only=True)
class HarnessBenchOptions:
    """Times features and scoring on pictures of noise."""

    pictures: int = 1000
    """Pictures to score, one a prompt; fewer where the suite has fewer."""
    size: int = 64
    """Their width and height."""
    batch: int = 32
    """Pictures a pass in the comparison with the bare network."""
    repeats: int = 25
    """Turns; the median counts."""
    suite: str = f"{SOURCE}@train"
    """Suite that they are scored for."""
    cache: Path | None = None
    """Folder for prepared pictures and features; by default the user's cache folder."""
    json: Path = Path("outputs/bench-harness.json")
    """File for the figures."""

    def __post_init__(self) -> None:
        for name in ("pictures", "size", "batch", "repeats"):
            require(self, name, getattr(self, name) >= 1, "1 or more")


def main(options: HarnessBenchOptions) -> None:
    """Times, prints, and writes the figures."""
    generator = torch.Generator().manual_seed(0)
    made = torch.randint(0, 256, (options.pictures, 3, options.size, options.size), generator=generator).byte()
    rows = [beside_the_bare_network(variant, made[: options.batch], options.repeats) for variant in (0, 1)]
    for row in rows:
        print(
            f"{row['network']}: {row['images_per_second']:.1f} images/s, {row['share']:.0%} of the bare network's "
            f"{row['bare_images_per_second']:.1f}"
        )
    count, seconds = scoring(made, options)
    print(f"{count} pictures scored by lite0 and lite1 in {seconds:.0f} s, the real ones being known")
    result = {"machine": machine("cpu"), "features": rows, "pictures": count, "scoring_seconds": seconds}
    write_json(options.json, result)
    print(f"the figures are in {options.json}")


def beside_the_bare_network(variant: int, pictures: Tensor, repeats: int) -> dict[str, Any]:
    """Images/s of features from pixels, and of the network alone on what it reads."""
    network = Lite(variant)
    ready = torch.randn(len(pictures), 3, network.size, network.size).contiguous(memory_format=torch.channels_last)
    ways = {
        "ours": lambda: extract(network, pictures, batch_size=len(pictures)),
        "bare": lambda: network._network(ready),
    }
    times = in_turns(ways, repeats, "cpu", network.name)
    ours, bare = (len(pictures) / statistics.median(times[name]) for name in ("ours", "bare"))
    return {"network": network.name, "images_per_second": ours, "bare_images_per_second": bare, "share": ours / bare}


def scoring(made: Tensor, options: HarnessBenchOptions) -> tuple[int, float]:
    """How many pictures were scored, and the seconds that it took."""
    suite = open_suite(options.suite, options.pictures, options.cache)
    side = open_real(suite, options.size, JudgeOptions(device="cpu", cache=options.cache))
    made = made[: len(suite.prompts)]
    with tempfile.TemporaryDirectory() as folder:
        side.judge.cache = Path(folder)  # what is made is new, though the last benchmark made it too
        begin = time.perf_counter()
        side.judge.score(made, suite.prompts, paired=bool(side.originals))
        return len(made), time.perf_counter() - begin


if __name__ == "__main__":
    command(main, HarnessBenchOptions)
