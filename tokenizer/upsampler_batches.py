"""Training batches of the upsampler."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Resampling
from torch import Tensor

from data.captioned import CaptionedImages
from data.grid import from_pil, to_pil
from tokenizer.augment import move, random_moves
from training.batches import Batch


class PicturePairs:
    """Makes batches of large pictures, and of the same ones reduced. It can be pickled, for workers."""

    def __init__(
        self, pictures: CaptionedImages, validation: CaptionedImages, size: int, reconstructed: float, origin: Any
    ) -> None:
        """`pictures` are large, `size` is that of the reduced ones; `origin` identifies the image tokenizer."""
        self._pictures, self._size, self._reconstructed = pictures, size, reconstructed
        self.origin = {"train": pictures.fingerprint, "validation": validation.fingerprint, "tokenizer": origin}

    def __len__(self) -> int:
        return len(self._pictures)

    def __call__(self, indices: NDArray[np.int64], generator: torch.Generator) -> Batch:
        """Return the pictures `indices`, shifted by whole pixels, which does not blur them.

        Returns:
            `large`, uint8 (B, 3, H, W), `small`, uint8 (B, 3, h, w), and `reconstructed`, bool (B,): whether the image
            tokenizer should reconstruct the small picture.
        """
        large = torch.stack([self._pictures[int(i)] for i in indices])
        pixel = 2 / large.shape[-1]  # offsets are in units of half a picture
        scale, offset = random_moves(len(indices), generator, zoom=0)
        large = move(large, scale, (offset / pixel).round() * pixel)
        chosen = torch.rand(len(indices), generator=generator) < self._reconstructed
        return {"large": large, "small": reduced(large, self._size), "reconstructed": chosen}


def reduced(images: Tensor, size: int) -> Tensor:
    """Reduce pictures as the readers of pictures do: uint8 (B, 3, H, W) -> uint8 (B, 3, size, size)."""
    return torch.stack([from_pil(to_pil(image).resize((size, size), Resampling.LANCZOS)) for image in images])
