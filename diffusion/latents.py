"""Latents of a corpus, computed once and kept beside the run: memory-mapped, so that training needs no pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.captioned import CaptionedImages
from data.source import open_source
from diffusion.options import DiffusionTrainingConfig
from tokenizer.augment import augmented
from tokenizer.image_tokenizer import ImageTokenizer
from training.config import from_dict, to_dict
from training.errors import BadInput
from training.files import appending, atomic, write_json
from training.run import RunFolder
from training.strict_json import read_json, read_json_list


@dataclass(kw_only=True)
class LatentStoreInfo:
    """What the latents of a store are."""

    codes_id: str
    """Image tokenizer that made them."""
    fingerprint: str
    """Content hash of the corpus."""
    views: int
    """Augmented views a picture; the first is the picture itself."""
    seed: int
    """Fixed the augmentation."""
    bound: float
    """Magnitude that 99.5 % of the numbers stay below."""

    @property
    def origin(self) -> dict[str, Any]:
        """What a run that goes on must find again."""
        return {name: value for name, value in to_dict(self).items() if name != "bound"}


class LatentStore:
    """A folder of latents opened for reading."""

    def __init__(self, folder: Path) -> None:
        """Raises `BadInput` when `folder` is not a complete store."""
        self.info = from_dict(LatentStoreInfo, read_json(folder / "store.json"), folder / "store.json")
        try:
            self._latents = np.load(folder / "latents.npy", mmap_mode="r")  # (pictures, views, C, h, w) float16
            self._captions: list[list[str]] = read_json_list(folder / "captions.json", most=2**30)
            self.groups: list[str] = read_json_list(folder / "groups.json", most=2**30)
            """What each picture is a variant of."""
            if self._latents.ndim != 5 or self._latents.shape[:2] != (len(self._captions), self.info.views):
                raise ValueError("latents of another number than store.json and captions.json say")
            if len(self.groups) != len(self._captions):
                raise ValueError("groups of another number than captions")
        except (OSError, ValueError) as error:
            raise BadInput(f"{folder}: a damaged store of latents ({error}); delete it to have it made again") from None

    def __len__(self) -> int:
        return len(self._captions)

    def latents(self, i: int, view: int = 0) -> Tensor:
        """(C, h, w) float32."""
        return torch.from_numpy(self._latents[i, view].astype(np.float32))

    def captions(self, i: int) -> list[str]:
        """At least one."""
        return self._captions[i]


def encode_once(config: DiffusionTrainingConfig, run: RunFolder, tokenizer: ImageTokenizer) -> None:
    """Encodes the training and validation splits into the run folder, except where they are there already.

    Raises `BadInput` when another trainer is in the folder, or one has learnt from other latents there.
    """
    sources = {
        split: open_source(
            config.data, size=tokenizer.config.image_size, split=split,
            cache=config.cache, strict=config.strict, limit=config.limit,
        )
        for split in ("train", "validation")
    }  # fmt: skip
    views = {"train": config.views, "validation": 1}
    origins = {
        split: {
            "codes_id": tokenizer.codes_id, "fingerprint": pictures.fingerprint, "views": views[split],
            "seed": config.seed,
        }
        for split, pictures in sources.items()
    }  # fmt: skip
    run.lock()
    run.require_data(origins)
    for split, pictures in sources.items():
        if not _holds(latent_folder(config, split), origins[split]):
            write_latents(latent_folder(config, split), tokenizer, pictures, views[split], config.seed)


def latent_folder(config: DiffusionTrainingConfig, split: str) -> Path:
    """Where a run keeps the latents of a split."""
    return Path(config.out) / "latents" / split


def write_latents(
    folder: Path, tokenizer: ImageTokenizer, pictures: CaptionedImages, views: int, seed: int, batch_size: int = 64
) -> None:
    """Encodes `pictures` into `folder`, whole or not at all; half precision, whose error is far below a code's cell."""
    shape = (len(pictures), views, *_latent_shape(tokenizer))
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False, "shape": shape}
    with atomic(folder) as temporary:
        temporary.mkdir()
        # not through a memory map: where the disk is full, writing to that kills the process
        with appending(temporary / "latents.npy") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for latents in encoded(tokenizer, pictures, views, seed, batch_size):
                file.write(latents.half().numpy().tobytes())
        stored = np.load(temporary / "latents.npy", mmap_mode="r")
        some = torch.from_numpy(stored[:: max(1, len(stored) // 1024), 0].astype(np.float32)).abs().flatten()
        bound = float(some.kthvalue(max(1, round(0.995 * len(some)))).values)
        info = LatentStoreInfo(
            codes_id=tokenizer.codes_id, fingerprint=pictures.fingerprint, views=views, seed=seed, bound=bound
        )
        write_json(temporary / "captions.json", [pictures.captions(i) for i in range(len(pictures))])
        write_json(temporary / "groups.json", [pictures.group(i) for i in range(len(pictures))])
        write_json(temporary / "store.json", to_dict(info))


def encoded(
    tokenizer: ImageTokenizer, pictures: CaptionedImages, views: int, seed: int, batch_size: int
) -> Iterator[Tensor]:
    """Latents (B, views, C, h, w) on the CPU, in the order of the corpus."""
    device = tokenizer.latent_mean.device
    generator = torch.Generator().manual_seed(seed)
    for start in tqdm(range(0, len(pictures), batch_size), desc=f"encoding {pictures.name}", unit="batch"):
        images = torch.stack([pictures[i] for i in range(start, min(start + batch_size, len(pictures)))])
        seen = [images, *(augmented(images, generator) for _ in range(views - 1))]
        yield torch.stack([tokenizer.latents(view.to(device)).cpu() for view in seen], dim=1)


def _latent_shape(tokenizer: ImageTokenizer) -> tuple[int, int, int]:
    return tokenizer.config.codebook_dim, tokenizer.config.grid, tokenizer.config.grid


def _holds(folder: Path, origin: dict[str, Any]) -> bool:
    """Whether the store is there and was made of the same pictures by the same tokenizer."""
    return (folder / "store.json").is_file() and LatentStore(folder).info.origin == origin
