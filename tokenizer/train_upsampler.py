"""Trains the upsampler: `accelerate launch tokenizer/train_upsampler.py --tokenizer MODEL --out RUN`."""

import functools

from data.source import open_source
from tokenizer.image_tokenizer import ImageTokenizer
from tokenizer.upsampler_batches import PicturePairs
from tokenizer.upsampler_options import UpsamplerTrainingConfig
from tokenizer.upsampler_task import UpsamplerTask, open_tokenizer
from training.cli import command
from training.run import RunFolder
from training.trainer import Trainer, accelerator_for


def main(config: UpsamplerTrainingConfig) -> None:
    """Open the pictures at their large size, and train the upsampler on them."""
    accelerator = accelerator_for(config)
    tokenizer, size = open_tokenizer(config, accelerator.device)
    source = functools.partial(
        open_source, config.data, size=size * config.model.scale, cache=config.cache, strict=config.strict
    )
    pictures = source(split="train", limit=config.limit)  # one process renders them for all
    validation = source(split="validation", limit=64)
    if config.verify:
        pictures.verify()
    task = UpsamplerTask(config, tokenizer, size, validation, accelerator.device)
    origin = _ids(tokenizer) if tokenizer else None
    data = PicturePairs(pictures, validation, size, config.reconstructed, origin)
    Trainer(task, data, RunFolder(config), accelerator).fit()


def _ids(tokenizer: ImageTokenizer) -> list[str]:
    """What identifies the pixels that the image tokenizer makes of a picture."""
    return [tokenizer.codes_id if tokenizer.has_codes else tokenizer.latents_id, tokenizer.pixels_id]


if __name__ == "__main__":
    command(main, UpsamplerTrainingConfig)
