"""Trains the token model: `accelerate launch seq2seq/train.py --config FILE --out RUN`."""

import warnings

from data.codes import open_codes, require_tokenizer
from sampling.bundle import bundle_run, samples_by
from seq2seq.batches import TokenBatches
from seq2seq.codes import code_folders
from seq2seq.options import TokenTrainingConfig
from seq2seq.task import resolve_config
from tokenizer.image_tokenizer import ImageTokenizer
from tokenizer.text import CaptionCut, TextTokenizer
from training.cli import command
from training.run import RunFolder
from training.trainer import Trainer, accelerator_for


def main(config: TokenTrainingConfig) -> None:
    """Encode the pictures if needed, train on their codes, and write a bundle."""
    accelerator = accelerator_for(config)
    text = TextTokenizer.from_pretrained(config.text)
    tokenizer = ImageTokenizer.from_pretrained(config.tokenizer, device=accelerator.device)
    tokenizer.require_codes()
    run = RunFolder(config)
    codes, validation = map(open_codes, code_folders(config, run, tokenizer))
    for store in (codes, validation):
        require_tokenizer(store, tokenizer.codes_id)
        if config.verify:
            store.verify()
    config.model = resolve_config(config.model, text, codes.info)
    warnings.simplefilter("ignore", CaptionCut)  # the corpus's long captions are cut in every epoch

    draw = samples_by("autoregressive", text, tokenizer)
    task = config.task.build(config, validation, text, tokenizer, draw)
    data = TokenBatches(codes, validation, text, config)
    if Trainer(task, data, run, accelerator).fit() and accelerator.is_main_process:
        bundle_run("autoregressive", run, config.text, config.tokenizer)


if __name__ == "__main__":
    command(main, TokenTrainingConfig)
