"""The training task of the upsampler: to make the large picture of a small one."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from data.captioned import CaptionedImages
from data.grid import grid
from tokenizer.image_tokenizer import ImageTokenizer, to_float, to_uint8
from tokenizer.losses import PerceptualLoss, psnr
from tokenizer.upsampler import Upsampler, enlarged
from tokenizer.upsampler_batches import reduced
from tokenizer.upsampler_options import UpsamplerTrainingConfig
from training.batches import Batch
from training.errors import BadInput
from training.pretrained import start_from
from training.task import Loss, Task

_SHOWN = 8
"""Validation pictures in a sample."""


def open_tokenizer(config: UpsamplerTrainingConfig, device: torch.device) -> tuple[ImageTokenizer | None, int]:
    """The image tokenizer that reconstructs small pictures, if any does, and the size of small pictures in pixels."""
    if not config.needs_tokenizer:
        assert config.image_size is not None
        return None, config.image_size
    tokenizer = ImageTokenizer.from_pretrained(config.tokenizer, device=device)
    size = tokenizer.config.image_size
    if config.image_size not in (None, size):
        raise BadInput(
            f"image_size is {config.image_size}, but the image tokenizer's pictures have {size} px: "
            "leave it out, or give --reconstructed 0"
        )
    return (tokenizer if config.reconstructed else None), size


class UpsamplerTask(Task):
    """Trains an upsampler on pairs of pictures. Validation pictures are enlarged from time to time."""

    def __init__(
        self, config: UpsamplerTrainingConfig, tokenizer: ImageTokenizer | None, size: int,
        validation: CaptionedImages, device: torch.device,
    ) -> None:  # fmt: skip
        """`tokenizer` and `size` are those of `open_tokenizer`. Pictures have `size` times the scale in pixels."""
        self.tokenizer, self.weight = tokenizer, config.perceptual
        model = Upsampler(config.model)
        if config.init:
            start_from(model, config.init)
        self.perceptual = PerceptualLoss(config.perceptual_size).to(device) if config.perceptual else None
        super().__init__(model, config.optimizer, places=size**2)
        self.scale = config.model.scale
        self.large = torch.stack([validation[i] for i in range(len(validation))])
        small = reduced(self.large, size).to(device)
        self.large = self.large.to(device)
        self.small = torch.cat([self._reconstructed(part) for _, part in self.parts(small)])

    def losses(self, batch: Batch, step: int) -> Iterator[Loss]:
        """Yield the loss of a batch of `PicturePairs`."""
        large = to_float(batch["large"])
        chosen, small = batch["reconstructed"], batch["small"].clone()
        if chosen.any():
            small[chosen] = self._reconstructed(small[chosen])
        small = to_float(small)
        made = self.modules["model"](small)
        loss = F.l1_loss(made, large)
        scalars = {"l1": loss, "psnr": psnr(made, large), "psnr_bicubic": psnr(enlarged(small, self.scale), large)}
        if self.perceptual:
            scalars["perceptual"] = self.perceptual(made, large)
            loss = loss + self.weight * scalars["perceptual"]
        yield Loss("model", loss, scalars)

    def evaluate(self, average: Upsampler, file: Path) -> dict[str, float]:
        """Write an image file of bicubic enlargements above the model's above the true pictures; return their PSNR."""
        made = torch.cat([average.upsample(part) for _, part in self.parts(self.small)])
        bicubic = torch.cat([to_uint8(enlarged(to_float(part), self.scale)) for _, part in self.parts(self.small)])
        rows = [*bicubic[:_SHOWN], *made[:_SHOWN], *self.large[:_SHOWN]]
        grid(rows, columns=min(_SHOWN, len(made)), cell=self.large.shape[-1]).save(file, format="PNG")
        large = to_float(self.large)
        return {
            "validation_psnr": psnr(to_float(made), large).item(),
            "validation_psnr_bicubic": psnr(to_float(bicubic), large).item(),
        }

    def _reconstructed(self, small: Tensor) -> Tensor:
        """Reconstruct pictures, uint8 (B, 3, h, w) -> the same. Without an image tokenizer they stay as they are."""
        return self.tokenizer.reconstruct(small) if self.tokenizer else small
