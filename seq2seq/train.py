"""Trains the token model: `accelerate launch seq2seq/train.py --config FILE --out RUN`."""

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.codes import CodesInfo, open_codes, require_tokenizer
from data.grid import grid
from data.store import Store
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


class TokenBatches:
    """Makes the batches of a token model from a store of codes. It can be pickled, for the workers of a loader."""

    def __init__(self, codes: Store[CodesInfo], text: TextTokenizer, config: TokenTrainingConfig) -> None:
        self.turns = Turns(codes.array("group"))
        self.codes, self._text = codes, text
        self._caption_dropout, self._token_dropout, self._bos = (
            config.caption_dropout, config.token_dropout, config.model.bos
        )  # fmt: skip

    def __call__(self, indices: NDArray[np.int64], generator: torch.Generator) -> Batch:
        """Of the turns `indices`: a view, a caption or none, and what the decoder is shown of the tokens."""
        captions: list[str | None] = []
        views = []
        for turn in map(int, indices):
            where, which, view = torch.rand(3, generator=generator).tolist()
            i = self.turns.example(turn, where)
            choice = self.codes.captions(i)
            captions.append(choice[int(which * len(choice))])
            views.append(self.codes.array("codes")[i, int(view * self.codes.info.views)])
        dropped = torch.rand(len(captions), generator=generator) < self._caption_dropout
        captions = [None if drop else caption for caption, drop in zip(captions, dropped, strict=True)]
        tokens = torch.from_numpy(np.stack(views).astype(np.int64)).flatten(1)
        read = partly_hidden(tokens, self._token_dropout, self._bos, generator)
        return {"text": trimmed(self._text.encode(captions)), "tokens": tokens, "read": read}


def main(config: TokenTrainingConfig) -> None:
    """Builds data, model and loss, and trains."""
    accelerator = accelerator_for(config)
    text = TextTokenizer.from_pretrained(config.text)
    tokenizer = ImageTokenizer.from_pretrained(config.tokenizer, device=accelerator.device)
    run, folder = RunFolder(config), code_folder(config)
    if folder != Path(config.data):
        encode_once(config, run, tokenizer)
    codes, unseen = (open_codes(folder / split) for split in ("train", "validation"))
    for store in (codes, unseen):
        require_tokenizer(store, tokenizer.codes_id)
        if config.verify:
            store.verify()
    require_own_grid(config.model, codes.info.columns)
    config.model = dataclasses.replace(
        config.model, text_vocab_size=text.vocab_size, text_length=text.config.max_length, text_id=text.text_id,
        codebook_size=codes.info.codebook_size, grid=codes.info.columns, codes_id=codes.info.codes_id,
    )  # fmt: skip
    warnings.simplefilter("ignore", CaptionCut)  # a long caption in the corpus is cut at every epoch
    model = TokenModel(config.model)
    if config.init:
        start_from(model, config.init)

    batches = TokenBatches(codes, text, config)

    def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return token_loss(model(batch["text"], batch["read"]), batch["tokens"], config.model.eos)

    @torch.no_grad()
    def evaluate(model: TokenModel, file: Path) -> dict[str, float]:
        """Draws the first validation captions over the true pictures; the loss on validation pictures."""
        some = range(min(256, len(unseen)))
        captions = [unseen.captions(i)[0] for i in some]
        codes = torch.from_numpy(unseen.array("codes")[some, 0].astype(np.int64)).to(accelerator.device)
        figures = {"validation_loss": 0.0, "validation_accuracy": 0.0}
        parts = (text.encode(captions), codes.flatten(1))
        size = max(1, _TOKENS_AT_ONCE // config.model.length)
        for read, tokens in zip(*(torch.split(part, size) for part in parts), strict=True):
            value, scalars = token_loss(model(read.to(tokens.device), tokens), tokens, config.model.eos)
            share = len(tokens) / len(captions)
            figures["validation_loss"] += value.item() * share
            figures["validation_accuracy"] += scalars["accuracy"].item() * share
        # plain: to pack or compile the weights of the moment would take longer than to draw twelve pictures
        bundle = Bundle(text=text, tokenizer=tokenizer, models={"autoregressive": model}, engine="plain")
        drawn = bundle.generate(captions[:12], options=SamplingOptions())
        grid([*drawn, *tokenizer.decode(codes[:12])], captions[:12] * 2, columns=12).save(file, format="PNG")
        return figures

    def export(model: TokenModel, folder: Path) -> None:
        model.load_state_dict(exported(model))
        model.to(torch.bfloat16).save_pretrained(folder)

    complete = train(
        accelerator, run, model, data={"train": codes.info.origin, "validation": unseen.info.origin},
        count=len(batches.turns), make_batch=batches, loss=loss, evaluate=evaluate, export=export,
        tokens=config.model.length,
    )  # fmt: skip
    if complete and accelerator.is_main_process:
        out = Path(config.out) / "bundle"
        backend = [f"autoregressive={run.model}"]
        assemble(BundleOptions(text=Path(config.text), tokenizer=Path(config.tokenizer), backend=backend, out=out))
        print(f'ready to draw: python -m sampling.generate --model {out} --prompt "..."')


if __name__ == "__main__":
    command(main, TokenTrainingConfig)
