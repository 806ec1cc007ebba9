"""Trains the diffusion model: `accelerate launch diffusion/train.py --config FILE --out RUN`."""

import warnings

from data.latents import LatentsInfo, require_latents_of
from data.store import Store
from diffusion.batches import LatentBatches
from diffusion.latents import latent_folders
from diffusion.options import DiffusionTrainingConfig
from diffusion.task import resolve_config
from sampling.bundle import bundle_run, samples_by
from tokenizer.image_tokenizer import ImageTokenizer
from tokenizer.text import CaptionCut, TextTokenizer
from training.cli import command
from training.run import RunFolder
from training.trainer import Trainer, accelerator_for


def main(config: DiffusionTrainingConfig) -> None:
    """Encode the pictures if needed, train on their latents, and write a bundle."""
    accelerator = accelerator_for(config)
    text = TextTokenizer.from_pretrained(config.text)
    tokenizer = ImageTokenizer.from_pretrained(config.tokenizer, device=accelerator.device)
    run = RunFolder(config)
    trained, validation = (Store(folder, LatentsInfo) for folder in latent_folders(config, run, tokenizer))
    for store in (trained, validation):
        require_latents_of(store, tokenizer.latents_id)
        if config.verify:
            store.verify()
    config.model, encoder = resolve_config(config.model, text, tokenizer, trained)
    warnings.simplefilter("ignore", CaptionCut)  # the corpus's long captions are cut in every epoch

    draw = samples_by("diffusion", text, tokenizer)
    task = config.task.build(config, validation, text, tokenizer, draw, encoder)
    data = LatentBatches(trained, validation, text, config)
    if Trainer(task, data, run, accelerator).fit() and accelerator.is_main_process:
        bundle_run("diffusion", run, config.text, config.tokenizer)


if __name__ == "__main__":
    command(main, DiffusionTrainingConfig)
