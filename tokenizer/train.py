"""Trains the image tokenizer: `accelerate launch tokenizer/train.py --config FILE --out RUN`."""

import functools

from data.source import open_source
from tokenizer.batches import PictureBatches
from tokenizer.options import TokenizerTrainingConfig
from training.cli import command
from training.run import RunFolder
from training.trainer import Trainer, accelerator_for


def main(config: TokenizerTrainingConfig) -> None:
    """Open the pictures, and train the image tokenizer on them."""
    accelerator = accelerator_for(config)
    source = functools.partial(
        open_source, config.data, size=config.model.image_size, cache=config.cache, strict=config.strict
    )
    pictures = source(split="train", limit=config.limit)  # one process renders them for all
    validation = source(split="validation", limit=128)
    if config.verify:
        pictures.verify()
    task = config.task.build(config, pictures, validation, accelerator.device)
    Trainer(task, PictureBatches(pictures, validation), RunFolder(config), accelerator).fit()


if __name__ == "__main__":
    command(main, TokenizerTrainingConfig)
