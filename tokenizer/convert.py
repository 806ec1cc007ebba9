"""Imports the convolutional image tokenizer of another code base.

python -m tokenizer.convert vqgan/ --out tokenizer/ --data photos/

It reads `VQModel` and `AutoencoderKL` of diffusers, VQGANs of taming-transformers, and the tokenizers of LlamaGen.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from data.source import open_source
from tokenizer.foreign import Foreign, read_foreign
from tokenizer.image_tokenizer import ImageTokenizer
from tokenizer.layouts import LEFT_OUT, imported
from training.cli import command
from training.config import require
from training.device import with_device
from training.errors import BadInput, printable
from training.files import atomic, holds_files, write_text
from training.markdown import plain


@dataclass(kw_only=True)
class ConvertOptions:
    """Imports the convolutional image tokenizer of another code base, as a model folder."""

    positional: ClassVar = ("source",)

    source: Path
    """A weights file, or a folder with one: `.safetensors`, or a pickle, from which only tensors are read. The settings
    are taken from a `config.json` or YAML file beside it, if there is one."""
    out: Path
    """Folder to write."""
    image_size: int | None = None
    """Height and width of the pictures in pixels. By default what the settings say."""
    data: str = ""
    """Pictures to standardise latents by, which a diffusion model needs: `emoji`, `scenes`, or your own: a folder, a
    parquet or tar file, `labels:FOLDER`, or `hf://datasets/owner/name`. Several are joined by `+`. Without it, latents
    stay as they are."""
    limit: int = 256
    """Use at most this many of these pictures."""
    cache: Path | None = None
    """Folder for prepared pictures; by default the user's cache folder."""
    license: str = "other"
    """Licence of the weights, for the model card: a name that the Hub knows, such as `mit`."""
    origin: str = ""
    """Where the weights are from, for the model card."""
    device: str = "auto"
    """Device to compute on: `auto` (a GPU if there is one), `cpu`, `cuda`, `mps`, or another of torch's."""

    def __post_init__(self) -> None:
        require(self, "limit", self.limit >= 1, "1 or more")
        require(self, "image_size", self.image_size is None or 16 <= self.image_size <= 1024, "from 16 to 1024")
        licence = re.fullmatch(r"[\w.-]{1,60}", self.license, re.ASCII)
        require(self, "license", licence is not None, "a name such as mit, apache-2.0 or other")


def main(options: ConvertOptions) -> None:
    """Read the checkpoint, standardise latents and write the model folder."""
    options = with_device(options)
    if options.out.is_dir() and holds_files(options.out):
        raise BadInput(f"{options.out}: holds files already; choose another --out")
    foreign = read_foreign(options.source)
    model, layout = imported(foreign, options.image_size)
    config = model.config
    what = f"codes of {model.codebook_size}" if model.has_codes else "latents"
    print(
        f"{layout}: {config.image_size} px, {config.grid} x {config.grid} {what}, "
        f"{config.quantizer.kind} in {config.quantizer.dim} dimensions"
    )
    if left := left_out(foreign):
        print(printable(f"left out: {', '.join(left)}"))
    print(_standardise(model, options))
    with atomic(options.out) as temporary:
        temporary.mkdir()
        write_text(temporary / "README.md", card(options, layout))
        model.save_pretrained(temporary)
    ids = ", ".join(f"{name} {value}" for name, value in model.ids.items())
    print(f"the image tokenizer is in {options.out}, {ids}")


def left_out(foreign: Foreign) -> Sequence[str]:
    """What of a checkpoint is not imported: tensors that only training needs, and entries beside the weights."""
    starts = Counter(start for name in foreign.tensors for start in LEFT_OUT if name.startswith(start))
    return [*(f"{count} tensors {start}*" for start, count in starts.items()), *foreign.left_out]


def card(options: ConvertOptions, layout: str) -> str:
    """The model card in Markdown, with the front matter that the Hub reads."""
    origin = f", from {plain(options.origin)}" if options.origin else ""
    return (
        f"---\nlibrary_name: tessera\nlicense: {options.license}\n---\n\n# ImageTokenizer\n\n"
        f"Weights of {layout}{origin}, imported by `tessera convert`. Their licence is that of their origin.\n"
    )


def _standardise(model: ImageTokenizer, options: ConvertOptions) -> str:
    """Calibrate the latents by pictures, if any are given. Returns a line that says so."""
    if not options.data and (model.latent_std != 1).any():
        return "latents are standardised by the scaling_factor in the settings"
    if not options.data:
        return "latents are not standardised: for a diffusion model, convert again with --data PICTURES"
    size, split = model.config.image_size, "train"
    pictures = open_source(options.data, size=size, split=split, cache=options.cache, limit=options.limit)
    model.to(options.device)
    model.calibrate(pictures[i][None].to(options.device) for i in range(len(pictures)))
    return f"latents are standardised by {len(pictures)} pictures of {pictures.name}"


if __name__ == "__main__":
    command(main, ConvertOptions)
