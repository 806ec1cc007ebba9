"""Compares upsamplers: `python -m evaluation.bench_upsampler --tokenizer MODEL --upsampler NAME=RUN/model`.

Each one, and the bicubic filter, enlarges the same held-out pictures twice: as the image tokenizer reconstructs them,
which is what models draw, and as they are, reduced.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_dir
from torch import Tensor

from data.emoji import SOURCE
from data.source import open_source
from evaluation.features import Lite, cached, extract
from evaluation.metrics import Metric, kernel_distance, mean, psnr
from tokenizer.image_tokenizer import ImageTokenizer, to_float, to_uint8
from tokenizer.upsampler import Upsampler, enlarged
from tokenizer.upsampler_batches import reduced
from training.cli import command
from training.config import require
from training.device import with_device
from training.errors import BadInput
from training.files import write_json
from training.markdown import tabulated


@dataclass(kw_only=True)
class UpsamplerBenchOptions:
    """Measure upsamplers of one scale, and the bicubic filter, on pictures that none was trained on."""

    tokenizer: Path
    """Image tokenizer: a model folder or `hf://owner/name`."""
    upsampler: list[str] = field(default_factory=list)
    """Upsampler and its name in the table, `restored=RUN/model`; repeat the flag for more."""
    data: str = SOURCE
    """`emoji`, `scenes`, or your own pictures: a folder, a parquet or tar file, `labels:FOLDER`, or
    `hf://datasets/owner/name`. Several are joined by `+`."""
    split: str = "heldout-concept"
    """Split to use; your own pictures have `train` and `validation`."""
    limit: int | None = None
    """Use only this many pictures."""
    batch_size: int = 32
    """Pictures to enlarge at a time."""
    cache: Path | None = None
    """Folder for prepared pictures and features. By default the user's cache folder."""
    device: str = "auto"
    """Device to compute on: `auto` (a GPU if there is one), `cpu`, `cuda`, `mps`, or another of torch's."""
    json: Path = Path("outputs/bench-upsampler.json")
    """File for the results."""

    def __post_init__(self) -> None:
        require(self, "batch_size", self.batch_size >= 1, "1 or more")
        for one in self.upsampler:
            name, _, folder = one.partition("=")
            if not (name and folder) or name == "bicubic":
                raise BadInput(f"--upsampler {one}: must be NAME=FOLDER, with another NAME than bicubic")


def main(options: UpsamplerBenchOptions) -> None:
    """Enlarge the pictures in each way, and print and write a table of the metrics."""
    options = with_device(options)
    given = {name: folder for name, _, folder in (one.partition("=") for one in options.upsampler)}
    models = {name: Upsampler.from_pretrained(folder, device=options.device) for name, folder in given.items()}
    scales = {model.config.scale for model in models.values()}
    if len(scales) != 1:
        raise BadInput("upsampler: give one with --upsampler NAME=RUN/model, or several of the same scale")
    (scale,) = scales
    tokenizer = ImageTokenizer.from_pretrained(options.tokenizer, device=options.device)
    size = tokenizer.config.image_size
    pictures = open_source(
        options.data, size=size * scale, split=options.split, cache=options.cache, limit=options.limit
    )
    if len(pictures) < 2:
        raise BadInput(f"{options.data}: the split '{options.split}' has {len(pictures)} pictures; KID needs 2 or more")
    large = torch.stack([pictures[i] for i in range(len(pictures))])
    ways = {"bicubic": lambda small: to_uint8(enlarged(to_float(small), scale))}
    ways |= {name: model.upsample for name, model in models.items()}
    found = compare(ways, tokenizer, reduced(large, size), large, options)
    write_json(options.json, {
        "pictures": pictures.name, "fingerprint": pictures.fingerprint, "count": len(pictures),
        **tokenizer.ids, "scale": scale,
        "upsamplers": {name: model.model_id for name, model in models.items()},
        "metrics": {way: {name: metric.to_dict() for name, metric in its.items()} for way, its in found.items()},
    })  # fmt: skip
    rows = [
        (way, *(f"{m.value:.4g} ({m.low:.4g} to {m.high:.4g})" for m in its.values())) for way, its in found.items()
    ]
    print(tabulated(("upsampler", *found["bicubic"]), rows))
    print(f"{len(pictures)} pictures of {pictures.name}, {scale} times as wide and high: {options.json}")


def compare(
    ways: Mapping[str, Callable[[Tensor], Tensor]],
    tokenizer: ImageTokenizer,
    small: Tensor,
    large: Tensor,
    options: UpsamplerBenchOptions,
) -> dict[str, dict[str, Metric]]:
    """Metrics of each way to enlarge pictures, among them "bicubic".

    - `kid`, `kid_lite1`: distance of enlarged reconstructions from the true large pictures;
    - `psnr_reconstructed`, `psnr_clean`: PSNR of enlarged reconstructions, and of enlarged true small pictures;
    - `gain_clean`: by how many dB the latter is above that of the bicubic enlargement, picture by picture.

    Args:
        ways: functions from pictures uint8 (B, 3, h, w) to uint8 (B, 3, H, W), by name.
        small: true small pictures, uint8 (N, 3, h, w).
        large: the same ones large, uint8 (N, 3, H, W).
    """

    def mapped(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        parts = torch.split(inputs, options.batch_size)
        return torch.cat([function(part.to(options.device)).cpu() for part in parts])

    rebuilt = mapped(tokenizer.reconstruct, small)
    networks: list[Any] = [Lite(variant, options.device) for variant in (0, 1)]
    cache = options.cache or Path(user_cache_dir("tessera"))
    real = [cached(network, large, cache).pooled for network in networks]
    bicubic = psnr(mapped(ways["bicubic"], small), large)
    found = {}
    for way, function in ways.items():
        of_rebuilt, of_clean = mapped(function, rebuilt), psnr(mapped(function, small), large)
        features = [extract(network, of_rebuilt).pooled for network in networks]
        kid, kid_lite1 = (kernel_distance(ours, true, paired=True) for ours, true in zip(features, real, strict=True))
        found[way] = {
            "kid": kid, "kid_lite1": kid_lite1, "psnr_reconstructed": mean(psnr(of_rebuilt, large)),
            "psnr_clean": mean(of_clean), "gain_clean": mean(of_clean - bicubic),
        }  # fmt: skip
    return found


if __name__ == "__main__":
    command(main, UpsamplerBenchOptions)
