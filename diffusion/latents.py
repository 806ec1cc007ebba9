"""Latents of a corpus, computed once and kept beside the run, so that training needs no pictures."""

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
    """What a store of latents says of itself."""

    kind: ClassVar[str] = "latents"

    codes_id: str
    """Image tokenizer that made them."""
    fingerprint: str
    """Content hash of the corpus."""
    channels: int
    """Numbers a latent."""
    grid: int
    """Rows of latents a picture, and latents a row."""
    views: int
    """Augmented views a picture; the first is the picture itself."""
    seed: int
    """Fixed the augmentation."""

    @property
    def arrays(self) -> Mapping[str, Array]:
        """Latents of each picture's views, in half precision, whose error is far below a code's cell."""
        return {"latents": Array("float16", (self.views, self.channels, self.grid, self.grid))}

    @property
    def origin(self) -> dict[str, Any]:
        """What a run that goes on must find again."""
        return {"codes_id": self.codes_id, "fingerprint": self.fingerprint, "views": self.views, "seed": self.seed}


def encode_once(config: DiffusionTrainingConfig, run: RunFolder, tokenizer: ImageTokenizer) -> None:
    """Encodes the training and validation splits into the run folder, except where they are there already.

    Every process must call it, and encodes its share. Raises `BadInput` when another trainer is in the folder, or one
    has learnt from other latents there.
    """

    def info(pictures: CaptionedImages, views: int) -> LatentsInfo:
        return LatentsInfo(
            codes_id=tokenizer.codes_id, fingerprint=pictures.fingerprint, channels=tokenizer.config.quantizer.dim,
            grid=tokenizer.config.grid, views=views, seed=config.seed,
        )  # fmt: skip

    plan = plan_stores(config, tokenizer.config.image_size, latent_folder(config, "train").parent, info)
    encode_for_run(run, plan, tokenizer.latents, tokenizer.latent_mean.device)


def latent_folder(config: DiffusionTrainingConfig, split: str) -> Path:
    """Where a run keeps the latents of a split."""
    return Path(config.out) / "latents" / split


def latents(store: Store[LatentsInfo], i: int, view: int = 0) -> Tensor:
    """Those of picture `i`, (C, h, w) float32."""
    return torch.from_numpy(store.array("latents")[i, view].astype(np.float32))


def magnitude_bound(store: Store[LatentsInfo]) -> float:
    """The magnitude that 99.5 % of the numbers stay below, over some thousand pictures."""
    kept = store.array("latents")
    some = torch.from_numpy(kept[:: max(1, len(kept) // 1024), 0].astype(np.float32)).abs().flatten()
    return float(some.kthvalue(max(1, round(0.995 * len(some)))).values)
