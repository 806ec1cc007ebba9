"""Trains the checker's network on the things of scenes: `python -m evaluation.train_checker --out FILE`.

Each example is one thing in one style on a background. Sizes vary, and some things are tinted. Half are slightly
blurred, and all are slightly noisy, as pictures drawn by a model are.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from platformdirs import user_cache_dir
from torch.nn import functional as F
from tqdm import trange

from data.colors import HUES
from data.emoji.corpus import EmojiCorpus
from data.scenes.corpus import things
from data.scenes.sprites import Sprites, tinted
from data.scenes.vocabulary import BACKGROUNDS, THINGS, Thing
from evaluation.checker import ThingNetwork, crop
from evaluation.segment import background, pieces
from training.cli import command
from training.config import require
from training.files import write_tensors

_CANVAS = 64


@dataclass(kw_only=True)
class TrainCheckerOptions:
    """Trains the network that names the things in pictures of scenes."""

    out: Path = Path("outputs/checker.safetensors")
    """File to write."""
    steps: int = 2500
    """Batches to train on."""
    batch_size: int = 128
    """Examples in a batch."""
    seed: int = 0
    """Seed of the initial weights and the examples."""
    cache: Path | None = None
    """Folder of the emoji art; by default the user's cache folder."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            require(self, name, getattr(self, name) >= 1, "1 or more")


def main(options: TrainCheckerOptions) -> None:
    """Trains, writes the weights in bfloat16, and prints the accuracy on examples of another seed."""
    emoji = EmojiCorpus("emoji", options.cache or Path(user_cache_dir("tessera")))
    sprites = Sprites(emoji.collections, 128)
    drawings = [(thing, style) for style, its in things(emoji).items() for thing in its]
    torch.manual_seed(options.seed)
    network = ThingNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=options.steps, pct_start=0.1)
    rng = random.Random(options.seed)
    for _ in (progress := trange(options.steps, desc="training the checker", unit="step")):
        crops, names = batch(drawings, sprites, options.batch_size, rng)
        loss = F.cross_entropy(network(crops), names, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{float(loss):.3f}")
    network.eval()
    crops, names = batch(drawings, sprites, 4096, random.Random(options.seed + 1))
    with torch.no_grad():
        accuracy = (network(crops).argmax(-1) == names).float().mean()
    weights = {name: tensor.bfloat16() if tensor.is_floating_point() else tensor
               for name, tensor in network.state_dict().items()}  # fmt: skip
    write_tensors(options.out, weights)
    print(f"accuracy on examples of another seed: {accuracy:.1%}; the weights are in {options.out}")


def batch(
    drawings: list[tuple[Thing, str]], sprites: Sprites, size: int, rng: random.Random
) -> tuple[torch.Tensor, torch.Tensor]:
    """Makes crops as the checker does, float32 (B, 3, 32, 32), and the index of each thing in `THINGS`, int64 (B,)."""
    crops: list[torch.Tensor] = []
    names: list[int] = []
    while len(crops) < size:
        thing, style = drawings[int(rng.random() * len(drawings))]
        picture = example(sprites.get(thing.codes, style), thing.tintable, rng)
        ground = background(picture)
        if found := pieces(picture, ground):
            crops.append(crop(picture, found[0], ground))
            names.append(THINGS.index(thing))
    return torch.stack(crops), torch.tensor(names)


def example(sprite: Image.Image, tintable: bool, rng: random.Random) -> NDArray[np.uint8]:
    """Renders a thing on a background, uint8 (3, 64, 64)."""
    ground = list(BACKGROUNDS.values())[int(rng.random() * len(BACKGROUNDS))] if rng.random() < 0.5 else (255,) * 3
    canvas = Image.new("RGB", (_CANVAS, _CANVAS), ground)
    scale = (14 + 42 * rng.random() ** 2) / max(sprite.size)
    wide, high = (max(1, round(side * scale)) for side in sprite.size)
    small = sprite.resize((wide, high), Image.Resampling.LANCZOS)
    if tintable and rng.random() < 0.5:
        small = tinted(small, list(HUES.values())[int(rng.random() * len(HUES))])
    x, y = (2 + round((_CANVAS - side - 4) * rng.random()) for side in (wide, high))
    canvas.paste(small, (x, y), small)
    if rng.random() < 0.5:
        canvas = canvas.filter(ImageFilter.GaussianBlur(0.2 + 0.7 * rng.random()))
    pixels = np.asarray(canvas).transpose(2, 0, 1).astype(np.float32)
    noise = np.random.default_rng(int(rng.random() * 2**32)).standard_normal(pixels.shape, np.float32)
    return (pixels + 6 * rng.random() * noise).clip(0, 255).astype(np.uint8)


if __name__ == "__main__":
    command(main, TrainCheckerOptions)
