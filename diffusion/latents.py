"""Latents of a corpus. They are computed once and kept in the run folder, so that training reads no pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from data.captioned import CaptionedImages
from data.store import Array, Store
from diffusion.options import DiffusionTrainingConfig
from tokenizer.encode import encode_for_run, plan_stores
from tokenizer.image_tokenizer import ImageTokenizer
from training.run import RunFolder


@dataclass(frozen=True, kw_only=True)
class LatentsInfo:
    """Description of a store of latents."""

    kind: ClassVar[str] = "latents"

    latents_id: str
    """Id of the image tokenizer that made them."""
    fingerprint: str
    """Content hash of the corpus."""
    channels: int
    """Channels of a latent, C."""
    grid: int
    """Rows of latents in a picture, and latents in a row."""
    views: int
    """Views of each picture. The first is the picture itself; the others are augmented."""
    seed: int
    """Seed of the augmentation."""

    @property
    def arrays(self) -> Mapping[str, Array]:
        """Latents of each picture's views, in float16: its error is far smaller than the distance between codes, and
        than the deviation of a posterior."""
        return {"latents": Array("float16", (self.views, self.channels, self.grid, self.grid))}

    @property
    def origin(self) -> dict[str, Any]:
        """The values that must not change when a run is resumed."""
        return {"latents_id": self.latents_id, "fingerprint": self.fingerprint, "views": self.views, "seed": self.seed}


def encode_once(config: DiffusionTrainingConfig, run: RunFolder, tokenizer: ImageTokenizer) -> list[Path]:
    """Encode the training and validation splits into the run folder, unless they are there already.

    Returns the folders of both stores. For a dry run they are temporary and hold the first pictures.

    Every process must call it, and encodes its share. Raises `BadInput` when another trainer is using the folder, or
    when the run was trained on other latents.
    """

    def info(pictures: CaptionedImages, views: int) -> LatentsInfo:
        return LatentsInfo(
            latents_id=tokenizer.latents_id, fingerprint=pictures.fingerprint, channels=tokenizer.config.quantizer.dim,
            grid=tokenizer.config.grid, views=views, seed=config.seed,
        )  # fmt: skip

    plan = plan_stores(config, tokenizer.config.image_size, Path(config.out) / "latents", info)
    return encode_for_run(run, plan, lambda images, _: tokenizer.latents(images), tokenizer.latent_mean.device)


def latents(store: Store[LatentsInfo], i: int, view: int = 0) -> Tensor:
    """Latents of one view of picture `i`, (C, h, w) float32."""
    return torch.from_numpy(store.array("latents")[i, view].astype(np.float32))


def magnitude_bound(store: Store[LatentsInfo]) -> float:
    """The magnitude that 99.5 % of the numbers do not exceed, measured on about a thousand pictures."""
    stored = store.array("latents")
    sample = torch.from_numpy(stored[:: max(1, len(stored) // 1024), 0].astype(np.float32)).abs().flatten()
    return float(sample.kthvalue(max(1, round(0.995 * len(sample)))).values)
