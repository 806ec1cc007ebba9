"""Trains the token model: `accelerate launch seq2seq/train.py --config FILE --out RUN`."""

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.codes import CodeStore
from data.grid import grid
from sampling.bundle import BundleOptions, assemble
from sampling.options import SamplingOptions
from sampling.pipeline import Bundle
from seq2seq.codes import code_folder, encode_once
from seq2seq.loss import partly_hidden, token_loss
from seq2seq.model import TokenModel
from seq2seq.options import TokenTrainingConfig
from tokenizer.image_tokenizer import ImageTokenizer, require_own_grid
from tokenizer.text import CaptionCut, TextTokenizer, trimmed
from training.cli import command
from training.loop import Batch, accelerator_for, train
from training.pretrained import exported, start_from
from training.run import RunFolder
from training.turns import Turns

_TOKENS_AT_ONCE = 2**14
"""Of how many image tokens evaluation makes one pass: all of its pictures where they have 64."""


def main(config: TokenTrainingConfig) -> None:
    """Builds data, model and loss, and trains."""
    accelerator = accelerator_for(config)
    text = TextTokenizer.from_pretrained(config.text)
    tokenizer = ImageTokenizer.from_pretrained(config.tokenizer, device=accelerator.device)
    run, folder = RunFolder(config), code_folder(config)
    if accelerator.is_main_process and folder != Path(config.data):
        encode_once(config, run, tokenizer)
    accelerator.wait_for_everyone()
    codes, unseen = (CodeStore(folder / split) for split in ("train", "validation"))
    for store in (codes, unseen):
        store.require_tokenizer(tokenizer.codes_id)
    require_own_grid(config.model, codes.info.columns)
    config.model = dataclasses.replace(
        config.model, text_vocab_size=text.vocab_size, text_length=text.config.max_length, text_id=text.text_id,
        codebook_size=codes.info.codebook_size, grid=codes.info.columns, codes_id=codes.info.codes_id,
    )  # fmt: skip
    warnings.simplefilter("ignore", CaptionCut)  # a long caption in the corpus is cut at every epoch
    model = TokenModel(config.model)
    if config.init:
        start_from(model, config.init, free={"dropout"})

    turns = Turns(codes.groups)

    def make_batch(indices: NDArray[np.int64], generator: torch.Generator) -> Batch:
        captions: list[str | None] = []
        views = []
        for turn in map(int, indices):
            where, which, view = torch.rand(3, generator=generator).tolist()
            picture = codes[turns.example(turn, where)]
            captions.append(picture.captions[int(which * len(picture.captions))])
            views.append(picture.codes[int(view * len(picture.codes))])
        dropped = torch.rand(len(captions), generator=generator) < config.caption_dropout
        captions = [None if drop else caption for caption, drop in zip(captions, dropped, strict=True)]
        tokens = torch.stack(views).flatten(1)
        read = partly_hidden(tokens, config.token_dropout, config.model.bos, generator)
        return {"text": trimmed(text.encode(captions)), "tokens": tokens, "read": read}

    def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return token_loss(model(batch["text"], batch["read"]), batch["tokens"], config.model.eos)

    @torch.no_grad()
    def evaluate(model: TokenModel, file: Path) -> dict[str, float]:
        """Draws the first validation captions over the true pictures; the loss on validation pictures."""
        pictures = [unseen[i] for i in range(min(256, len(unseen)))]
        captions = [picture.captions[0] for picture in pictures]
        codes = torch.stack([picture.codes[0] for picture in pictures]).to(accelerator.device)
        figures = {"validation_loss": 0.0, "validation_accuracy": 0.0}
        parts = (text.encode(captions), codes.flatten(1))
        size = max(1, _TOKENS_AT_ONCE // config.model.length)
        for read, tokens in zip(*(torch.split(part, size) for part in parts), strict=True):
            value, scalars = token_loss(model(read.to(tokens.device), tokens), tokens, config.model.eos)
            share = len(tokens) / len(pictures)
            figures["validation_loss"] += value.item() * share
            figures["validation_accuracy"] += scalars["accuracy"].item() * share
        # plain: to pack or compile the weights of the moment would take longer than to draw twelve pictures
        bundle = Bundle(text=text, tokenizer=tokenizer, autoregressive=model, engine="plain")
        drawn = bundle.generate(captions[:12], options=SamplingOptions())
        grid([*drawn, *tokenizer.decode(codes[:12])], captions[:12] * 2, columns=12).save(file, format="PNG")
        return figures

    def export(model: TokenModel, folder: Path) -> None:
        model.load_state_dict(exported(model))
        model.to(torch.bfloat16).save_pretrained(folder)

    complete = train(
        accelerator, run, model, data={"train": codes.info.origin, "validation": unseen.info.origin},
        count=len(turns), make_batch=make_batch, loss=loss, evaluate=evaluate, export=export,
        tokens=config.model.length,
    )  # fmt: skip
    if complete and accelerator.is_main_process:
        made, out = Path(config.out) / "model", Path(config.out) / "bundle"
        parts = BundleOptions(text=Path(config.text), tokenizer=Path(config.tokenizer), autoregressive=made, out=out)
        assemble(parts)
        print(f'ready to draw: python -m sampling.generate --model {out} --prompt "..."')


if __name__ == "__main__":
    command(main, TokenTrainingConfig)
