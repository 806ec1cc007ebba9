"""The one way to draw many pictures into files, in as many sittings and processes as it takes."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from tqdm import tqdm

from data.grid import to_pil
from sampling.backend import Start
from sampling.options import BackendOptions
from sampling.picture_files import read_picture, write_picture
from sampling.pipeline import Bundle


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A picture to draw, and the file it goes to."""

    file: Path
    prompt: str
    seed: int
    record: Mapping[str, Any]
    """What it is drawn from and with. It is written into the file, by which the picture is known again."""


def missing(wanted: Sequence[Wanted]) -> list[Wanted]:
    """Those that are not there, or only damaged. Raises `BadInput` where another file has the name of one."""
    return [one for one in wanted if read_picture(one.file, one.record) is None]


def draw(
    wanted: Sequence[Wanted],
    bundle: Bundle,
    options: BackendOptions,
    batch_size: int,
    start: Start | None = None,
    drawn: Callable[[int, float], None] = lambda count, seconds: None,
) -> None:
    """Draws pictures and writes them a batch at a time, each process of the launcher its share.

    Every process calls it with the same list, before any has written. `drawn` is told of each batch of this process
    when it is written: of how many pictures it was, and the seconds that drawing them took.
    """
    state = PartialState()
    mine = wanted[state.process_index :: state.num_processes]
    with tqdm(total=len(mine), unit="image", desc="drawing", disable=not state.is_main_process) as bar:
        for first in range(0, len(mine), batch_size):
            batch = mine[first : first + batch_size]
            begin = time.perf_counter()
            pictures = bundle.draw([(one.prompt, one.seed) for one in batch], options, start)
            seconds = time.perf_counter() - begin
            for one, picture in zip(batch, pictures, strict=True):
                write_picture(one.file, to_pil(picture), one.record)
            drawn(len(batch), seconds)
            bar.update(len(batch))
