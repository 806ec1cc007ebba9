"""Training batches of the image tokenizer."""

import numpy as np
import torch
from numpy.typing import NDArray

from data.captioned import CaptionedImages
from tokenizer.augment import augment
from training.batches import Batch


class PictureBatches:
    """Makes batches of augmented pictures. It can be pickled, for the workers of a data loader."""

    def __init__(self, pictures: CaptionedImages, validation: CaptionedImages) -> None:
        self._pictures = pictures
        self.origin = {"train": pictures.fingerprint, "validation": validation.fingerprint}

    def __len__(self) -> int:
        return len(self._pictures)

    def __call__(self, indices: NDArray[np.int64], generator: torch.Generator) -> Batch:
        """Return the pictures `indices`, augmented: `images`, uint8 (B, 3, H, W)."""
        return {"images": augment(torch.stack([self._pictures[int(i)] for i in indices]), generator)}
