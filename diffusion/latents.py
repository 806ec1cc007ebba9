"""Finds or makes the latents that the diffusion model is trained on, and reads them."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.latents import LatentsInfo
from data.store import Store, holds_stores
from diffusion.options import DiffusionTrainingConfig
from tokenizer.encode import SPLITS, EncodeOptions, encode_for_run, latents_of, plan_latents
from tokenizer.image_tokenizer import ImageTokenizer
from training.run import RunFolder


def latent_folders(config: DiffusionTrainingConfig, run: RunFolder, tokenizer: ImageTokenizer) -> list[Path]:
    """The folders of the stores of both splits: those in `config.data`; or the pictures there are encoded into the run
    folder, unless they have been. For a dry run they are temporary and hold the first pictures.

    Every process must call it, and encodes its share. Raises `BadInput` when another trainer is using the folder, or
    when the run was trained on other latents.
    """
    if holds_stores(config.data, LatentsInfo.kind):
        return [Path(config.data) / split for split in SPLITS]
    device = tokenizer.latent_mean.device
    options = EncodeOptions(
        model=Path(config.tokenizer), data=config.data, out=Path(config.out) / "latents", latents=True,
        strict=config.strict, cache=config.cache, device=str(device), views=config.views, limit=config.limit,
        seed=config.seed,
    )  # fmt: skip
    return encode_for_run(run, plan_latents(tokenizer, options), latents_of(tokenizer), device)


def latents(store: Store[LatentsInfo], i: int, view: int = 0) -> Tensor:
    """Latents of one view of picture `i`, (C, h, w) float32."""
    return torch.from_numpy(store.array("latents")[i, view].astype(np.float32))


def magnitude_bound(store: Store[LatentsInfo]) -> float:
    """The magnitude that 99.5 % of the numbers do not exceed, measured on about a thousand pictures."""
    stored = store.array("latents")
    sample = torch.from_numpy(stored[:: max(1, len(stored) // 1024), 0].astype(np.float32)).abs().flatten()
    return float(sample.kthvalue(max(1, round(0.995 * len(sample)))).values)
