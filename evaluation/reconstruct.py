"""Judges an image tokenizer: `python -m evaluation.reconstruct --model RUN/model --out FOLDER`."""

from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from data.grid import grid
from data.source import open_source
from evaluation.metrics import Metric, mean, perplexity, psnr, ssim, usage
from tokenizer.image_tokenizer import ImageTokenizer
from training.cli import command
from training.config import require
from training.errors import BadInput
from training.files import write_json


@dataclass(kw_only=True)
class ReconstructOptions:
    """Encodes and decodes pictures that the tokenizer has not seen, and says what was lost."""

    model: Path
    """Image tokenizer: a model folder or a Hub id."""
    out: Path
    """Folder to write: `report.json`, and `pictures.png` with originals above reconstructions."""
    data: str = "emoji"
    """`emoji`, or a folder or parquet file of your own pictures."""
    split: str = "heldout-concept"
    """Which pictures; your own have `train` and `validation`."""
    limit: int | None = None
    """Judge only this many pictures."""
    batch_size: int = 64
    """Pictures at a time."""
    cache: Path | None = None
    """Folder for prepared pictures; by default the user's cache folder."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to compute."""

    def __post_init__(self) -> None:
        require(self, "batch_size", self.batch_size >= 1, "1 or more")


def main(options: ReconstructOptions) -> None:
    """Reconstructs, measures, writes, and says where."""
    model = ImageTokenizer.from_pretrained(options.model, device=options.device)
    config = model.config
    pictures = open_source(
        options.data, size=config.image_size, split=options.split, cache=options.cache, limit=options.limit
    )
    if len(pictures) == 0:
        raise BadInput(f"{options.data}: the split '{options.split}' is empty; give another --split")
    images = torch.stack([pictures[i] for i in range(len(pictures))])
    parts = tqdm(torch.split(images, options.batch_size), desc="reconstructing", unit="batch")
    codes = torch.cat([model.encode(part.to(options.device)).cpu() for part in parts])
    made = torch.cat([model.decode(part.to(options.device)).cpu() for part in torch.split(codes, options.batch_size)])
    quality = psnr(made, images)
    metrics = {
        "psnr": mean(quality),
        "ssim": mean(ssim(made, images)),
        "codebook_usage": Metric(value=usage(codes, config.codebook_size)),
        "codebook_perplexity": Metric(value=perplexity(codes, config.codebook_size)),
    }
    write_json(
        options.out / "report.json",
        {
            "codes_id": model.codes_id, "pixels_id": model.pixels_id, "source": pictures.name,
            "fingerprint": pictures.fingerprint, "count": len(pictures),
            "metrics": {name: metric.to_dict() for name, metric in metrics.items()},
        },
    )  # fmt: skip
    # every so many pictures from the worst to the best, so that failures are seen and not picked
    order = quality.argsort()
    chosen = order[torch.linspace(0, len(order) - 1, min(12, len(order))).long()].tolist()
    labels = [f"{quality[i]:.1f} dB" for i in chosen]
    sheet = grid([*images[chosen], *made[chosen]], ["original"] * len(chosen) + labels, columns=len(chosen))
    sheet.save(options.out / "pictures.png")
    figures = ", ".join(f"{name} {metric.value:.4g}" for name, metric in metrics.items())
    print(f"{figures} on {len(pictures)} pictures of {pictures.name}: {options.out / 'report.json'}")


if __name__ == "__main__":
    command(main, ReconstructOptions)
