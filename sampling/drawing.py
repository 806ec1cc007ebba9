"""The one way to draw many pictures into files, in as many sittings and processes as it takes."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from tqdm import tqdm

from data.grid import to_pil
from sampling.backend import Start
from sampling.options import BackendOptions, SamplingOptions
from sampling.picture_files import read_picture, write_picture
from sampling.pipeline import Bundle, load
from training.config import require

SHIPPED = Path(__file__).parents[1] / "checkpoints" / "emoji"


@dataclass(frozen=True, kw_only=True)
class DrawingOptions:
    """What draws, and how many pictures of a prompt."""

    backend: BackendOptions = field(default_factory=SamplingOptions, metadata={"short": True})
    """What draws, and how. Its options may be given without `backend.`."""
    model: str = str(SHIPPED)
    """Bundle: a folder, or `hf://owner/name@commit` on the Hub. By default the one that comes with Tessera."""
    num_images: int = 1
    """Pictures a prompt, with the seeds `seed`, `seed + 1`, ..."""
    seed: int = 0
    """Fixes the pictures."""
    batch_size: int = 32
    """Most pictures drawn at a time."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to compute."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the token or diffusion model; `auto` is bfloat16 where the hardware computes in it, and
    float32 elsewhere."""
    engine: str = "auto"
    """How steps are computed: `plain`, as written; by the token model also `packed`, with linear layers laid out for
    this CPU, or `compiled` to one graph; by diffusion also `traced`. `auto` chooses by the machine."""

    def __post_init__(self) -> None:
        for name in ("num_images", "batch_size"):
            require(self, name, getattr(self, name) >= 1, "1 or more")
        require(self, "seed", 0 <= self.seed < 2**62, "from 0 to 2**62")

    def load(self) -> Bundle:
        """The bundle. Raises `BadInput` where it cannot draw so."""
        bundle = load(self.model, device=self.device, dtype=self.dtype, engine=self.engine)
        bundle.backend(self.backend.kind)
        return bundle


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
