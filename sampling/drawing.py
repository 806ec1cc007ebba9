"""Draw many pictures into files. The work can be interrupted, resumed, and shared by several processes."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from data.grid import to_pil
from sampling.backend import Start
from sampling.options import BackendOptions, SamplingOptions
from sampling.picture_files import read_picture, write_picture
from sampling.pipeline import Bundle, listed_backends, load
from training.config import require
from training.errors import BadInput
from training.redact import redacted
from training.shipped import shipped


@dataclass(frozen=True, kw_only=True)
class DrawingOptions:
    """Which model draws, and how many pictures of each prompt."""

    backend: BackendOptions = field(default_factory=SamplingOptions, metadata={"short": True})
    """The backend and its options. The options may be given without `backend.`. In a local bundle that has only one
    backend, it is the default."""
    model: str = field(default_factory=shipped)
    """Bundle: a folder, or `hf://owner/name@commit` on the Hub. By default the one that the environment variable
    `TESSERA_BUNDLE` names, else the one in a clone."""
    num_images: int = 1
    """Pictures a prompt, with the seeds `seed`, `seed + 1`, ..."""
    seed: int = 0
    """First seed. The same seed gives the same pictures."""
    batch_size: int = 32
    """Pictures to draw at a time, at most."""
    upscale: int = 1
    """How many times to enlarge width and height: the scale of the bundle's upsampler, 2 or 4, or 1 for none."""
    device: str = "auto"
    """Device to compute on: `auto` (a GPU if there is one), `cpu`, `cuda`, `mps`, or another of torch's."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Data type of the token or diffusion model. With `auto` the diffusion model takes bfloat16 where the hardware
    computes in it, the token model on a GPU; otherwise it is float32. The token model's engine `packed` rounds the
    weights of linear layers further, if this CPU can: to float16, which it multiplies in float32. With bfloat16 it
    multiplies in that from 16 rows on. `generation.json` says which it was."""
    engine: str = "auto"
    """How steps are computed. `plain`: as written. For the token model also `packed`: with linear layers laid out for
    this CPU, and `graph`: recorded as CUDA graphs. For diffusion also `traced`, on a CPU. `auto` chooses by the
    machine: on Apple's GPU `plain`, the only one there."""

    def __post_init__(self) -> None:
        for name in ("num_images", "batch_size"):
            require(self, name, getattr(self, name) >= 1, "1 or more")
        require(self, "seed", 0 <= self.seed < 2**62, "from 0 to below 2**62")
        require(self, "upscale", self.upscale in (1, 2, 4), "1, 2 or 4")

    @staticmethod
    def implied(given: Mapping[str, Any]) -> dict[str, str]:
        """The only backend of a bundle on this machine (`training.command_line`)."""
        index = Path(str(given.get("model") or shipped())) / "bundle.json"
        try:
            (only,) = listed_backends(index)
        except (BadInput, ValueError):  # `load` says what is wrong
            return {}
        return {"backend": only}

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides how a picture is drawn, as JSON values, without local paths."""
        enlarged = {"upscale": self.upscale} if self.upscale > 1 else {}
        return redacted(json.loads(json.dumps(self.backend.settings | enlarged)))

    def origin(self, bundle: Bundle) -> dict[str, Any]:
        """What the pictures are drawn with: model, options, and how steps are computed."""
        backend = bundle.backend(self.backend.kind)
        enlarged = {"upsampler_id": bundle.upsampler_id} if self.upscale > 1 else {}
        return {
            "backend": backend.kind, "options": self.settings, **bundle.ids, "model_id": backend.model_id, **enlarged,
            **backend.compute_settings(),
        }  # fmt: skip

    def load(self) -> Bundle:
        """Load the bundle. Raises `BadInput` if it has no such backend or upsampler, or as `sampling.load` does."""
        bundle = load(self.model, device=self.device, dtype=self.dtype, engine=self.engine)
        bundle.backend(self.backend.kind)
        bundle.check_upscale(self.upscale)
        return bundle


@dataclass(frozen=True, kw_only=True)
class Request:
    """A picture to draw, and the file to write it to."""

    file: Path
    prompt: str
    seed: int
    metadata: Mapping[str, Any]
    """All that determines the picture. It is written into the file and compared when the command is given again."""


def missing(requests: Sequence[Request]) -> list[Request]:
    """The requests whose file does not exist or is damaged. Raises `BadInput` if another file has the name of one."""
    return [one for one in requests if read_picture(one.file, one.metadata) is None]


def draw(
    requests: Sequence[Request],
    bundle: Bundle,
    options: BackendOptions,
    batch_size: int,
    start: Start | None = None,
    on_drawn: Callable[[int, float], None] = lambda count, seconds: None,
    upscale: int = 1,
) -> None:
    """Draw pictures, `batch_size` at a time, enlarge them `upscale` times, and write each as soon as it is finished.

    Each process of the launcher draws its share. Every process must call this with the same list, made before any of
    them writes. `on_drawn` is called after pictures of this process are written, with their number and the seconds that
    drawing them took.
    """
    from accelerate import PartialState

    state = PartialState()
    mine = requests[state.process_index :: state.num_processes]
    with tqdm(total=len(mine), unit="image", desc="drawing", disable=not state.is_main_process) as bar:
        begin = time.perf_counter()
        for i, picture in bundle.draw_each([(one.prompt, one.seed) for one in mine], batch_size, options, start):
            (picture,) = bundle.upscaled([picture], upscale)
            seconds = time.perf_counter() - begin
            write_picture(mine[i].file, to_pil(picture), mine[i].metadata)
            on_drawn(1, seconds)
            bar.update()
            begin = time.perf_counter()
