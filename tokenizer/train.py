"""Trains the image tokenizer: `accelerate launch tokenizer/train.py --config FILE --out RUN`."""

import functools
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.grid import grid
from data.source import CaptionedImages, open_source
from tokenizer.augment import augmented
from tokenizer.image_tokenizer import ImageTokenizer, to_float
from tokenizer.losses import TokenizerLoss, psnr
from tokenizer.options import TokenizerTrainingConfig
from training.cli import command
from training.loop import Batch, accelerator_for, train
from training.pretrained import exported, start_from
from training.run import RunFolder


class PictureBatches:
    """Makes the batches of an image tokenizer from pictures. It can be pickled, for the workers of a loader."""

    def __init__(self, pictures: CaptionedImages) -> None:
        self._pictures = pictures

    def __call__(self, indices: NDArray[np.int64], generator: torch.Generator) -> Batch:
        """The pictures `indices`, each moved a little."""
        return {"images": augmented(torch.stack([self._pictures[int(i)] for i in indices]), generator)}


def main(config: TokenizerTrainingConfig) -> None:
    """Builds data, model and loss, and trains."""
    accelerator = accelerator_for(config)
    source = functools.partial(
        open_source, config.data, size=config.model.image_size, cache=config.cache, strict=config.strict
    )
    pictures = source(split="train", limit=config.limit)  # of several processes one draws them, once
    unseen = source(split="validation", limit=128)
    if config.verify:
        pictures.store.verify()
    shown = torch.stack([unseen[i] for i in range(len(unseen))]).to(accelerator.device)
    model = ImageTokenizer(config.model)
    if config.init:
        start_from(model, config.init)
    objective = TokenizerLoss(config.loss).to(accelerator.device)

    def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        images = to_float(batch["images"])
        made = model(images)
        total, terms = objective(made, images)
        usage, perplexity = accelerator.unwrap_model(model).codebook_statistics()
        return total, {**terms, "psnr": psnr(made.images, images), "usage": usage, "perplexity": perplexity}

    def evaluate(model: ImageTokenizer, file: Path) -> dict[str, float]:
        """Draws validation pictures over their reconstructions."""
        rebuilt = model.decode(model.encode(shown))
        grid([*shown[:16], *rebuilt[:16]], columns=min(16, len(shown))).save(file, format="PNG")
        return {"validation_psnr": psnr(to_float(rebuilt), to_float(shown)).item()}

    def export(model: ImageTokenizer, folder: Path) -> None:
        model.load_state_dict(exported(model))
        some = range(0, len(pictures), max(1, len(pictures) // 1024))
        model.calibrate([pictures[i][None].to(accelerator.device) for i in some])
        model.to(torch.bfloat16).save_pretrained(folder)

    data = {"train": pictures.fingerprint, "validation": unseen.fingerprint}
    train(
        accelerator, RunFolder(config), model, data=data, count=len(pictures), make_batch=PictureBatches(pictures),
        loss=loss, evaluate=evaluate, export=export, tokens=config.model.grid**2,
    )  # fmt: skip


if __name__ == "__main__":
    command(main, TokenizerTrainingConfig)
