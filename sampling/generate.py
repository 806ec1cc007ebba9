"""Draw pictures from text: `python -m sampling.generate --prompt "a noto emoji of a fox"`."""

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import torch

from data.files import text_lines
from data.grid import grid, to_pil
from data.picture import fit, fit_mask, original_size, readable
from sampling.backend import Start
from sampling.drawing import DrawingOptions, Request, draw, missing
from sampling.picture_files import file_name, read_picture, require_replaceable, write_picture
from sampling.pipeline import Bundle, check_prompt
from training.cli import command
from training.config import require
from training.device import with_device
from training.errors import BadInput
from training.files import locked, write_json
from training.processes import require_joined, set_up_cpu
from training.redact import redacted, redacted_path
from training.strict_json import read_json

MAX_IN_GRID = 120
_GRID = {"Software": "python -m sampling.generate", "Title": "grid"}
"""Metadata of a grid."""


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(DrawingOptions):
    """Draw pictures from text and write them as PNG files, with a labelled grid and a JSON record of the run."""

    presets: ClassVar = "."

    prompt: list[str] = field(default_factory=list)
    """What to draw; repeat the flag for more prompts."""
    prompts: Path | None = None
    """Text file with one prompt a line."""
    interpolate: int = 0
    """Draw this many pictures between two prompts, or between the seeds `seed` and `seed + 1` of one prompt. Only
    backends that can interpolate take it, such as diffusion."""
    init_image: Path | None = None
    """Picture to start from."""
    strength: float = 1.0
    """How much of `init_image` is drawn again, from near 0 (little) to 1 (all). Diffusion adds noise to it up to this
    fraction; the token model draws this fraction of its rows, from the bottom."""
    mask: Path | None = None
    """Picture that is white where the token model should draw `init_image` again, and black elsewhere. It has the width
    and height of `init_image`."""
    columns: int = 0
    """Columns of the grid; 0 chooses."""
    out: Path = Path("outputs")
    """Folder to write to."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "columns", self.columns >= 0, "0 or more")
        require(self, "interpolate", self.interpolate == 0 or self.interpolate >= 2, "2 or more, or 0 for none")
        require(self, "strength", 0 < self.strength <= 1, "above 0, at most 1")
        require(self, "strength", self.strength == 1 or self.init_image is not None, "1 without init_image")
        require(self, "mask", self.mask is None or self.init_image is not None, "absent without init_image")
        require(self, "num_images", self.num_images == 1 or not self.interpolate, "1 with interpolate")

    @property
    def settings(self) -> dict[str, Any]:
        """All options as JSON values, without local paths. With prompt, seed and model they determine a picture."""
        settings = super().settings
        if self.init_image is not None:
            settings |= {"init_image": str(self.init_image), "strength": self.strength}
            settings |= {"mask": str(self.mask)} if self.mask else {}
            for name in ("init_image", "mask"):  # also by content, because a file may have changed under its name
                file = getattr(self, name)
                settings |= {f"{name}_sha256": hashlib.sha256(file.read_bytes()).hexdigest()} if file else {}
        settings |= {"interpolate": self.interpolate} if self.interpolate else {}
        return redacted(json.loads(json.dumps(settings)))


def main(options: GenerateOptions) -> None:
    """Load the bundle, draw and write the pictures, and print where they are."""
    from accelerate import PartialState

    options = with_device(options)
    state = PartialState(cpu=options.device == "cpu")
    require_joined(state.num_processes)
    set_up_cpu()
    prompts = [check_prompt(prompt) for prompt in _prompts(options)]
    bundle = options.load()
    start = _start(options, bundle)
    bundle.backend(options.backend.kind).check(start)
    if options.interpolate:
        if state.num_processes > 1:
            raise BadInput("interpolate runs in one process: start it with python, not with accelerate launch")
        labelled = [(label, options.seed) for label in _interpolation_labels(prompts, options)]
    else:
        labelled = [(prompt, options.seed + i) for prompt, i in product(prompts, range(options.num_images))]
    requests = [_request(n, prompt, seed, bundle, options) for n, (prompt, seed) in enumerate(labelled)]
    _require_replaceable(requests, options)
    with locked(options.out) if state.is_main_process else nullcontext():
        to_draw = missing(requests)
        count = len(to_draw)
        state.wait_for_everyone()  # all processes have read the folder before any of them writes
        begin = time.perf_counter()
        if options.interpolate:
            _interpolate(to_draw, requests, prompts, bundle, options)
        else:
            draw(to_draw, bundle, options.backend, options.batch_size, start, upscale=options.upscale)
        seconds = time.perf_counter() - begin
        state.wait_for_everyone()
        if state.is_main_process:
            speed = count / seconds
            file = summarize(requests, bundle, options, seconds, speed)
            kept = f", {len(requests) - count} were there already" if count < len(requests) else ""
            print(f"{count} pictures in {seconds:.1f} s ({speed:.2f} images/s){kept}: {file}")


def _request(number: int, prompt: str, seed: int, bundle: Bundle, options: GenerateOptions) -> Request:
    metadata = {
        "prompt": prompt, "seed": seed, **options.origin(bundle), "device": torch.device(options.device).type,
    }  # fmt: skip
    file = options.out / file_name(number, prompt, seed, metadata)
    return Request(file=file, prompt=prompt, seed=seed, metadata=metadata)


def summarize(
    requests: Sequence[Request], bundle: Bundle, options: GenerateOptions, seconds: float, speed: float
) -> Path:
    """Write `grid.png` and `generation.json` for pictures that are on disk; returns the path of the grid.

    `seconds` and `speed`, in images/s, go into the record. Raises `BadInput` if a picture is missing.
    """
    pictures = []
    for one in requests:
        picture = read_picture(one.file, one.metadata)
        if picture is None:
            raise BadInput(f"{one.file}: was drawn but is not there; give the same command again")
        pictures.append(picture)
    shown = requests[:MAX_IN_GRID]
    labels = [f"{one.prompt} ({one.seed})" if options.num_images > 1 else one.prompt for one in shown]
    columns = options.columns or (options.num_images if options.num_images > 1 else min(len(shown), 6))
    write_picture(options.out / "grid.png", grid(pictures[:MAX_IN_GRID], labels, columns=columns), _GRID)
    write_json(
        options.out / "generation.json",
        {
            "model": redacted_path(bundle.source), **options.origin(bundle), "device": options.device,
            **bundle.backend(options.backend.kind).drawing_stats(),
            "batch_size": options.batch_size, "torch": torch.__version__, "threads": torch.get_num_threads(),
            "seconds": round(seconds, 3), "images_per_second": round(speed, 3),
            "images": [
                {"file": one.file.name, "prompt": one.prompt, "seed": one.seed, "height": picture.shape[1]}
                for one, picture in zip(requests, pictures, strict=True)
            ],
        },
    )  # fmt: skip
    return options.out / "grid.png"


def _prompts(options: GenerateOptions) -> list[str]:
    prompts = list(options.prompt)
    if options.prompts:
        prompts += [line for line in text_lines(options.prompts) if line.strip()]
    if not prompts:
        raise BadInput('nothing to draw: give --prompt "a noto emoji of a fox" or --prompts FILE')
    return prompts


def _require_replaceable(requests: Sequence[Request], options: GenerateOptions) -> None:
    """Raise `BadInput` if an output would replace an input file, or a file that this command did not write."""
    grid_file, record_file = options.out / "grid.png", options.out / "generation.json"
    for name in ("init_image", "mask", "prompts"):
        given = getattr(options, name)
        for file in (grid_file, record_file, *(one.file for one in requests)):
            if given and file.exists() and file.samefile(given):
                raise BadInput(f"--{name} {given}: would be replaced by an output; choose another --out")
    require_replaceable(grid_file, _GRID)
    if record_file.exists() and not {"images", "model_id", "pixels_id", "text_id"} <= read_json(record_file).keys():
        raise BadInput(f"{record_file}: is there already and is not a record of drawn pictures; choose another --out")


def _interpolation_labels(prompts: list[str], options: GenerateOptions) -> list[str]:
    """The label of each picture of an interpolation."""
    if len(prompts) > 2:
        raise BadInput(f"interpolate goes between two prompts, or two seeds of one: {len(prompts)} prompts are given")
    count, seed = options.interpolate, options.seed
    ends = " to ".join(prompts) if len(prompts) == 2 else f"{prompts[0]}, seed {seed} to {seed + 1}"
    return [f"{ends}: {100 * i / (count - 1):.0f} %" for i in range(count)]


def _interpolate(
    to_draw: Sequence[Request],
    requests: Sequence[Request],
    prompts: list[str],
    bundle: Bundle,
    options: GenerateOptions,
) -> None:
    """Draw all `requests` together, unless there is nothing `to_draw`, and write those that are."""
    if to_draw:
        seed = options.seed
        seeds = (seed, seed if len(prompts) == 2 else seed + 1)
        ends = (prompts[0], prompts[-1])
        pictures = bundle.interpolate(ends, seeds, options.interpolate, options.backend, options.batch_size)
        for one, picture in zip(requests, bundle.upscaled(pictures, options.upscale), strict=True):
            if one in to_draw:
                write_picture(one.file, to_pil(picture), one.metadata)


def _start(options: GenerateOptions, bundle: Bundle) -> Start | None:
    if options.init_image is None:
        return None
    if options.interpolate:
        raise BadInput("init_image and interpolate do not go together: give one of them")
    size = bundle.tokenizer.config.image_size
    image = readable(fit, options.init_image, size)
    mask = None if options.mask is None else readable(fit_mask, options.mask, size)
    if options.mask is not None:  # which is cropped like the picture, and of another size might be cropped elsewhere
        (w, h), (mask_w, mask_h) = original_size(options.init_image), original_size(options.mask)
        if (mask_w, mask_h) != (w, h):
            raise BadInput(f"the mask is {mask_w}x{mask_h} pixels, init_image {w}x{h}: must be one size")
    return Start(image=image, strength=options.strength, mask=mask)


if __name__ == "__main__":
    command(main, GenerateOptions)
