"""Pictures from text: `python -m sampling.generate --prompt "a noto emoji of a fox"`."""

import dataclasses
import json
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from tqdm import tqdm

from data.fit import fit
from data.grid import grid, to_pil
from data.store import Unreadable
from sampling.options import DiffusionOptions, GuidanceOptions, SamplingOptions
from sampling.pipeline import Bundle, check_prompt, load
from training.cli import command
from training.config import require, to_dict
from training.errors import BadInput
from training.files import atomic, write_json

SHIPPED = Path(__file__).parents[1] / "checkpoints" / "emoji"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(SamplingOptions, DiffusionOptions):
    """Draws pictures from text and writes them as PNG, with a labelled grid and a record of what was done."""

    prompt: list[str] = field(default_factory=list, metadata={"repeat": True})
    """What to draw; give it again for more."""
    prompts: Path | None = None
    """Text file with one prompt a line."""
    model: str = str(SHIPPED)
    """Bundle: a folder or a Hub id. By default the one that comes with Tessera."""
    backend: Literal["autoregressive", "diffusion"] = "autoregressive"
    """What draws the codes: the token model, or the diffusion model. Each has options of its own."""
    interpolate: int = 0
    """Draw this many pictures, by diffusion, on the way between two prompts, or from `seed` to `seed + 1` of one."""
    init_image: Path | None = None
    """Picture that diffusion starts from, in place of noise alone."""
    strength: float = 1.0
    """How much noise is laid over `init_image`: near 0 it stays, at 1 nothing of it does."""
    num_images: int = 1
    """Pictures a prompt, with the seeds `seed`, `seed + 1`, ..."""
    seed: int = 0
    """Fixes the pictures."""
    batch_size: int = 32
    """Most pictures drawn at a time."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to draw."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the token or diffusion model; `auto` is bfloat16 on CUDA and float32 elsewhere."""
    engine: Literal["auto", "plain", "packed", "compiled"] = "auto"
    """How the token model's steps are computed: as written, with linear layers laid out for this CPU, or as one
    compiled graph; `auto` chooses by the machine."""
    columns: int = 0
    """Pictures a row of the grid; 0 chooses."""
    out: Path = Path("outputs")
    """Folder to write."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_images", "batch_size"):
            require(self, name, getattr(self, name) >= 1, "1 or more")
        require(self, "seed", 0 <= self.seed < 2**62, "from 0 to 2**62")
        require(self, "columns", self.columns >= 0, "0 or more")
        require(self, "interpolate", self.interpolate == 0 or self.interpolate >= 2, "2 or more, or 0 for none")
        require(self, "strength", 0 < self.strength <= 1, "above 0, at most 1")
        require(self, "strength", self.strength == 1 or self.init_image is not None, "1 without init_image")
        self._require_backend()

    @property
    def sampling(self) -> SamplingOptions | DiffusionOptions:
        """The part of the options that the sampler reads."""
        kind = DiffusionOptions if self.backend == "diffusion" else SamplingOptions
        return kind(**{f.name: getattr(self, f.name) for f in dataclasses.fields(kind)})

    def _require_backend(self) -> None:
        """Refuses options that the backend would not read."""
        shared = {f.name for f in dataclasses.fields(GuidanceOptions)}
        other = SamplingOptions if self.backend == "diffusion" else DiffusionOptions
        deaf = {f.name: f.default for f in dataclasses.fields(other) if f.name not in shared}
        if self.backend != "diffusion":
            deaf |= {"interpolate": 0, "init_image": None}
        else:
            deaf |= {"engine": "auto"}
        for name, default in deaf.items():
            if getattr(self, name) != default:
                raise BadInput(f"{name} is {getattr(self, name)}: backend {self.backend} does not read it")


def main(options: GenerateOptions) -> None:
    """Loads, draws, writes, and says where."""
    prompts = [check_prompt(prompt) for prompt in _prompts(options)]
    engine = None if options.engine == "auto" else options.engine
    bundle = load(options.model, device=_device(options.device), dtype=_dtype(options), engine=engine)
    bundle.require(options.backend)
    image = _init_image(options, bundle)
    options.out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    if options.interpolate:
        wanted, pictures = _interpolate(prompts, bundle, options)
    else:
        wanted = [(prompt, options.seed + i) for prompt in prompts for i in range(options.num_images)]
        with tqdm(total=len(wanted), unit="image", desc="drawing") as bar:
            pictures = bundle.generate(
                prompts, num_images=options.num_images, seed=options.seed, options=options.sampling, init_image=image,
                strength=options.strength, batch_size=options.batch_size, progress=bar.update,
            )  # fmt: skip
    seconds = time.perf_counter() - begin
    file = write(pictures, wanted, bundle, options, seconds)
    print(f"{len(pictures)} pictures in {seconds:.1f} s ({len(pictures) / seconds:.2f} images/s): {file}")


def write(
    pictures: list[Tensor], wanted: list[tuple[str, int]], bundle: Bundle, options: GenerateOptions, seconds: float
) -> Path:
    """Writes one PNG a picture, `grid.png` and `generation.json`; returns the path of the grid.

    `wanted` has the prompt and seed of each picture.
    """
    settings = json.loads(json.dumps(to_dict(options.sampling)))
    if options.init_image is not None:
        settings |= {"init_image": str(options.init_image), "strength": options.strength}
    images: list[dict[str, Any]] = []
    for i, (picture, (prompt, seed)) in enumerate(zip(pictures, wanted, strict=True)):
        name = f"{i:04d}-{re.sub(r'[^a-z0-9]+', '-', prompt.lower())[:60].strip('-')}-{seed}.png"
        record = {"prompt": prompt, "seed": seed, "backend": options.backend, "options": settings, **bundle.ids}
        chunks = PngInfo()
        for key, value in record.items():
            chunks.add_itxt(key, value if isinstance(value, str) else json.dumps(value))
        with atomic(options.out / name) as temporary:
            to_pil(picture).save(temporary, format="PNG", pnginfo=chunks)
        images.append({"file": name, "prompt": prompt, "seed": seed, "height": picture.shape[1]})
    labels = [f"{image['prompt']} ({image['seed']})" if options.num_images > 1 else image["prompt"] for image in images]
    columns = options.columns or (options.num_images if options.num_images > 1 else min(len(pictures), 6))
    with atomic(options.out / "grid.png") as temporary:
        grid(pictures, labels, columns=columns).save(temporary, format="PNG")
    write_json(
        options.out / "generation.json",
        {
            "model": options.model, "backend": options.backend, "options": settings, **bundle.ids,
            "device": options.device, **_arithmetic(bundle, options),
            "batch_size": options.batch_size, "torch": torch.__version__, "threads": torch.get_num_threads(),
            "seconds": round(seconds, 3), "images_per_second": round(len(pictures) / seconds, 3), "images": images,
        },
    )  # fmt: skip
    return options.out / "grid.png"


def _arithmetic(bundle: Bundle, options: GenerateOptions) -> dict[str, str]:
    """What the pictures were computed with."""
    if options.backend == "diffusion":
        return {"dtype": str(_dtype(options)).removeprefix("torch.")}
    sampler = bundle.sampler
    return {"engine": sampler.engine, "dtype": str(sampler.arithmetic).removeprefix("torch.")}


def _prompts(options: GenerateOptions) -> list[str]:
    prompts = list(options.prompt)
    if options.prompts:
        try:
            lines = options.prompts.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise BadInput(f"{options.prompts}: not UTF-8 text (byte {error.start})") from None
        prompts += [line for line in lines if line.strip()]
    if not prompts:
        raise BadInput('nothing to draw: give --prompt "a noto emoji of a fox" or --prompts FILE')
    return prompts


def _interpolate(
    prompts: list[str], bundle: Bundle, options: GenerateOptions
) -> tuple[list[tuple[str, int]], list[Tensor]]:
    """What is wanted, and the pictures."""
    count, seed = options.interpolate, options.seed
    if len(prompts) > 2:
        raise BadInput(f"interpolate goes between two prompts, or two seeds of one: {len(prompts)} prompts are given")
    first, last = prompts[0], prompts[-1]
    seeds = (seed, seed if len(prompts) == 2 else seed + 1)
    way = f"{first} to {last}" if len(prompts) == 2 else f"{first}, seed {seed} to {seed + 1}"
    sampling = options.sampling
    assert isinstance(sampling, DiffusionOptions)
    pictures = bundle.interpolate((first, last), seeds, count, sampling)
    return [(f"{way}: {100 * i / (count - 1):.0f} %", seed) for i in range(count)], pictures


def _init_image(options: GenerateOptions, bundle: Bundle) -> Tensor | None:
    if options.init_image is None:
        return None
    if options.interpolate:
        raise BadInput("init_image and interpolate do not go together: give one of them")
    try:
        return torch.from_numpy(fit(options.init_image, bundle.tokenizer.config.image_size).copy())
    except Unreadable as error:
        raise BadInput(f"{options.init_image}: cannot be read ({error})") from None


def _device(name: str) -> str:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"device '{name}' cannot be used here ({reason}); 'cpu' always can") from None
    return name


def _dtype(options: GenerateOptions) -> torch.dtype:
    if options.dtype == "auto":
        return torch.bfloat16 if options.device.startswith("cuda") else torch.float32
    return _DTYPES[options.dtype]


if __name__ == "__main__":
    command(main, GenerateOptions)
