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

from data.grid import grid, to_pil
from sampling.options import SamplingOptions
from sampling.pipeline import Bundle, check_prompt, load
from training.cli import command
from training.config import require, to_dict
from training.errors import BadInput
from training.files import atomic, write_json

SHIPPED = Path(__file__).parents[1] / "checkpoints" / "emoji"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(SamplingOptions):
    """Draws pictures from text and writes them as PNG, with a labelled grid and a record of what was done."""

    prompt: list[str] = field(default_factory=list, metadata={"repeat": True})
    """What to draw; give it again for more."""
    prompts: Path | None = None
    """Text file with one prompt a line."""
    model: str = str(SHIPPED)
    """Bundle: a folder or a Hub id. By default the one that comes with Tessera."""
    backend: Literal["autoregressive"] = "autoregressive"
    """What draws the codes."""
    num_images: int = 1
    """Pictures a prompt, with the seeds `seed`, `seed + 1`, ..."""
    seed: int = 0
    """Fixes the pictures."""
    batch_size: int = 32
    """Most pictures drawn at a time."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to draw."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the token model; `auto` is bfloat16 on CUDA and float32 elsewhere."""
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

    @property
    def sampling(self) -> SamplingOptions:
        """The part of the options that the sampler reads."""
        return SamplingOptions(**{f.name: getattr(self, f.name) for f in dataclasses.fields(SamplingOptions)})


def main(options: GenerateOptions) -> None:
    """Loads, draws, writes, and says where."""
    prompts = [check_prompt(prompt) for prompt in _prompts(options)]
    bundle = load(options.model, device=_device(options.device), dtype=_dtype(options))
    options.out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    with tqdm(total=len(prompts) * options.num_images, unit="image", desc="drawing") as bar:
        pictures = bundle.generate(
            prompts, num_images=options.num_images, seed=options.seed, options=options.sampling,
            batch_size=options.batch_size, progress=bar.update,
        )  # fmt: skip
    seconds = time.perf_counter() - begin
    file = write(pictures, prompts, bundle, options, seconds)
    print(f"{len(pictures)} pictures in {seconds:.1f} s ({len(pictures) / seconds:.2f} images/s): {file}")


def write(pictures: list[Tensor], prompts: list[str], bundle: Bundle, options: GenerateOptions, seconds: float) -> Path:
    """Writes one PNG a picture, `grid.png` and `generation.json`; returns the path of the grid."""
    settings = json.loads(json.dumps(to_dict(options.sampling)))
    images: list[dict[str, Any]] = []
    for i, picture in enumerate(pictures):
        prompt, seed = prompts[i // options.num_images], options.seed + i % options.num_images
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
            "device": options.device, "dtype": str(_dtype(options)).removeprefix("torch."),
            "batch_size": options.batch_size, "torch": torch.__version__, "threads": torch.get_num_threads(),
            "seconds": round(seconds, 3), "images_per_second": round(len(pictures) / seconds, 3), "images": images,
        },
    )  # fmt: skip
    return options.out / "grid.png"


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
