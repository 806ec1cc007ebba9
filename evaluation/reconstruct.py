"""Evaluate an image tokenizer: `python -m evaluation.reconstruct --model RUN/model --out FOLDER`."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from pathlib import Path
from typing import ClassVar

import torch
from platformdirs import user_cache_dir
from torch import Tensor
from tqdm import tqdm

from data.emoji import SOURCE
from data.grid import grid
from data.source import open_source
from evaluation.features import Lite, Network, cached, extract
from evaluation.harness import (
    JudgeOptions,
    open_setup,
    require_packages,
    require_result_or_nothing,
    with_readable_pictures,
)
from evaluation.metrics import (
    ENOUGH_FOR_FRECHET,
    VERSION,
    Metric,
    frechet_distance,
    kernel_distance,
    lpips,
    mean,
    perplexity,
    psnr,
    ssim,
    usage,
)
from evaluation.result import header, write_result
from evaluation.suites import open_suite
from sampling.picture_files import require_replaceable, write_picture
from tokenizer.features import RESIZER
from tokenizer.image_tokenizer import ImageTokenizer
from training.cli import command
from training.config import require
from training.device import with_device
from training.errors import BadInput
from training.redact import redacted_path

_SHEET = {"Software": "python -m evaluation.reconstruct", "Title": "originals above reconstructions"}
"""Metadata of the sheet of pictures."""


@dataclass(kw_only=True)
class ReconstructOptions:
    """Encode and decode pictures that the tokenizer was not trained on, and measure the differences."""

    presets: ClassVar = "reconstruct"

    model: Path
    """Image tokenizer: a model folder or `hf://owner/name`."""
    out: Path
    """Folder to write to: `report.json`, and `pictures.png` with originals above reconstructions."""
    data: str = SOURCE
    """`emoji`, `scenes`, or your own pictures: a folder, a parquet or tar file, `labels:FOLDER`, or
    `hf://datasets/owner/name`. Several are joined by `+`."""
    split: str = "heldout-concept"
    """Split to use; your own pictures have `train` and `validation`."""
    suite: str | None = None
    """Instead of a split, use the real pictures of a suite of prompts, such as `emoji/validation-style`. Then retrieval
    measures too whether the reconstructions still show what the captions say."""
    limit: int | None = None
    """Use only this many pictures."""
    batch_size: int = 64
    """Batch size."""
    distances: bool = True
    """Also compute distances between features of both sets: KID, and Fréchet distances from 5,000 pictures on."""
    lpips: bool = False
    """Also compute LPIPS, which needs torchvision and its weights."""
    cache: Path | None = None
    """Folder for prepared pictures; by default the user's cache folder."""
    device: str = "auto"
    """Device to compute on: `auto` (a GPU if there is one), `cpu`, `cuda`, `mps`, or another of torch's."""

    def __post_init__(self) -> None:
        require(self, "batch_size", self.batch_size >= 1, "1 or more")
        require(self, "suite", self.suite is None or self.limit is None, "absent with a limit")


@dataclass(kw_only=True)
class RealPictures:
    """The pictures to reconstruct."""

    name: str
    fingerprint: str
    images: Tensor
    """uint8 (N, 3, H, W)."""
    distances: Callable[[Tensor], Mapping[str, Metric]]
    """Compares their features with those of their reconstructions, which it takes."""
    networks: Sequence[Network]
    """What computes these features."""


def main(options: ReconstructOptions) -> None:
    """Reconstruct the pictures, measure the differences, write the report, and print where it is."""
    require_packages()
    options = with_device(options)
    require_result_or_nothing(options.out / "report.json")
    require_replaceable(options.out / "pictures.png", _SHEET)
    model = ImageTokenizer.from_pretrained(options.model, device=options.device)
    config = model.config
    real = _of_suite(options, config.image_size) if options.suite else _of_split(options, config.image_size)
    images = real.images
    encode, decode = (model.encode, model.decode) if model.has_codes else (model.latents, model.decode_latents)
    encoded, encode_speed = _mapped(encode, images, options, "encoding")
    made, decode_speed = _mapped(decode, encoded, options, "decoding")
    quality = _each(psnr, made, images, options)
    metrics = {
        "psnr": mean(quality),
        "ssim": mean(_each(ssim, made, images, options)),
        **real.distances(made),
        **({"lpips": mean(_each(lpips, made, images, options), higher_is_better=False)} if options.lpips else {}),
        **(_of_codes(encoded, model) if model.has_codes else {}),
        "encode_images_per_second": Metric(value=encode_speed),
        "decode_images_per_second": Metric(value=decode_speed),
    }
    protocol = {
        "metrics_version": VERSION,
        "reference": {"name": real.name, "fingerprint": real.fingerprint, "count": len(images)},
        "networks": {network.name: network.hash for network in real.networks},
        "resizer": RESIZER, "image_size": config.image_size,
    }  # fmt: skip
    write_result(
        options.out / "report.json",
        {
            **header("reconstruction", redacted_path(options.model), protocol),
            **model.ids, "source": real.name, "fingerprint": real.fingerprint, "count": len(images),
            "subject": {"device": options.device, "threads": torch.get_num_threads(), "torch": torch.__version__},
            "metrics": {name: metric.to_dict() for name, metric in metrics.items()},
        },
    )  # fmt: skip
    # the three worst, then evenly spaced ones up to the best: failures are shown, and nothing is picked by hand
    order = quality.argsort()
    spread = torch.linspace(0, len(order) - 1, min(9, len(order))).long().tolist()
    chosen = order[sorted({*range(min(3, len(order))), *spread})].tolist()
    labels = [f"{quality[i]:.1f} dB" for i in chosen]
    sheet = grid([*images[chosen], *made[chosen]], ["original"] * len(chosen) + labels, columns=len(chosen))
    write_picture(options.out / "pictures.png", sheet, _SHEET)
    figures = ", ".join(f"{name} {metric.value:.4g}" for name, metric in metrics.items() if "_halves" not in name)
    print(f"{figures} on {len(images)} pictures of {real.name}: {options.out / 'report.json'}")


def _of_split(options: ReconstructOptions, size: int) -> RealPictures:
    pictures = open_source(options.data, size=size, split=options.split, cache=options.cache, limit=options.limit)
    if len(pictures) == 0:
        raise BadInput(f"{options.data}: the split '{options.split}' is empty; give another --split")
    images = torch.stack([pictures[i] for i in range(len(pictures))])
    networks = [Lite(variant, options.device) for variant in (0, 1)] if options.distances else []
    return RealPictures(
        name=pictures.name, fingerprint=pictures.fingerprint, images=images, networks=networks,
        distances=lambda made: _distances(networks, made, images, options),
    )  # fmt: skip


def _of_suite(options: ReconstructOptions, size: int) -> RealPictures:
    suite = open_suite(str(options.suite), cache=options.cache)
    if not suite.source:
        raise BadInput(f"--suite {options.suite}: its prompts are not captions of real pictures")
    suite = with_readable_pictures(suite, size, options.cache)
    setup = open_setup(suite, size, JudgeOptions(cache=options.cache, device=options.device))
    judge, heights = setup.judge, setup.heights or None

    def distances(made: Tensor) -> Mapping[str, Metric]:
        return judge.score(made, suite.prompts, heights=heights, paired=True).metrics if options.distances else {}

    return RealPictures(
        name=suite.name, fingerprint=str(judge.protocol["reference"]["fingerprint"]),
        images=torch.stack(list(setup.originals)), networks=judge.networks, distances=distances,
    )  # fmt: skip


def _mapped(
    function: Callable[[Tensor], Tensor], inputs: Tensor, options: ReconstructOptions, label: str
) -> tuple[Tensor, float]:
    """Apply a function to all inputs in batches; returns the outputs and the inputs a second."""
    begin = time.perf_counter()
    parts = tqdm(torch.split(inputs, options.batch_size), desc=label, unit="batch")
    outputs = torch.cat([function(part.to(options.device)).cpu() for part in parts])
    return outputs, len(inputs) / (time.perf_counter() - begin)


def _of_codes(codes: Tensor, model: ImageTokenizer) -> dict[str, Metric]:
    """Metrics of codes (N, h, columns), which a tokenizer with continuous latents does not have.

    With several codes of a place: of the depth that uses the fewest, and of each depth.
    """
    size, depth, found = model.codebook_size, model.depth, {}
    for name, measured in (("codebook_usage", usage), ("codebook_perplexity", perplexity)):
        by_depth = [Metric(value=measured(codes[..., n::depth], size)) for n in range(depth)]
        found[name] = min(by_depth, key=lambda metric: metric.value)
        found |= {f"{name}_{n}": metric for n, metric in enumerate(by_depth, 1)} if depth > 1 else {}
    bits = depth * log2(size) / model.config.backbone.factor**2
    return {**found, "bits_per_pixel": Metric(value=bits, higher_is_better=False)}


def _each(
    metric: Callable[[Tensor, Tensor], Tensor], made: Tensor, images: Tensor, options: ReconstructOptions
) -> Tensor:
    """Apply a metric to each picture and its original, in batches: (N,)."""
    pairs = zip(*(torch.split(both, options.batch_size) for both in (made, images)), strict=True)
    return torch.cat([metric(*pair) for pair in pairs])


def _distances(
    networks: Sequence[Lite], made: Tensor, images: Tensor, options: ReconstructOptions
) -> dict[str, Metric]:
    """KID by each network, and its Fréchet distance if there are enough pictures. No training loss uses Lite1."""
    cache = options.cache or Path(user_cache_dir("tessera"))
    found = {}
    for network in networks:
        real, ours = cached(network, images, cache), extract(network, made)
        found["kid" if network.name == "lite0" else f"kid_{network.name}"] = kernel_distance(
            ours.pooled, real.pooled, paired=True
        )
        if len(images) >= ENOUGH_FOR_FRECHET:
            found[f"fd_{network.name}"] = frechet_distance(ours.pooled, real.pooled)
    return found


if __name__ == "__main__":
    command(main, ReconstructOptions)
