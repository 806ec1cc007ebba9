"""The training task of the token model: to predict the tokens of a picture, given its caption."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from data.codes import CodesInfo
from data.grid import grid
from data.store import Store
from seq2seq.frozen_text import caption_ids, resolved
from seq2seq.loss import token_loss
from seq2seq.model import TokenModel, TokenModelConfig
from seq2seq.options import TokenTrainingConfig
from tokenizer.image_tokenizer import ImageTokenizer, require_matching_grid
from tokenizer.text import TextTokenizer
from training.batches import Batch
from training.pretrained import start_from
from training.task import Draw, Loss, Task


def resolve_config(config: TokenModelConfig, text: TextTokenizer, codes: CodesInfo) -> TokenModelConfig:
    """Fill in what the text tokenizer, a frozen text encoder and the codes decide.

    Raises `BadInput` where the config sets another grid, or if the text encoder cannot be read.
    """
    require_matching_grid(config, codes.rows)
    source, states = resolved(config.text_source) if config.text_source else ("", config.text_states)
    return dataclasses.replace(
        config, text_source=source, text_states=states, text_id="" if source else text.text_id,
        text_vocab_size=text.vocab_size, text_length=text.config.max_length,
        codebook_size=codes.codebook_size, grid=codes.rows, depth=codes.columns // codes.rows, codes_id=codes.codes_id,
    )  # fmt: skip


class TokenTask(Task):
    """Trains a token model from a resolved config. It draws validation captions from time to time."""

    def __init__(
        self, config: TokenTrainingConfig, validation: Store[CodesInfo], text: TextTokenizer, tokenizer: ImageTokenizer,
        draw: Draw,
    ) -> None:  # fmt: skip
        self.config, self.validation, self.text, self.tokenizer, self.draw = config, validation, text, tokenizer, draw
        self.model = TokenModel(config.model)
        if config.init:
            start_from(self.model, config.init)
        super().__init__(self.model, config.optimizer, tokens=config.model.length)

    def losses(self, batch: Batch, step: int) -> Iterator[Loss]:
        """Yield the loss of `text` (B, S) and `tokens` (B, T), where the decoder reads `inputs` (B, T); all int64."""
        logits = self.modules["model"](batch["text"], batch["inputs"])
        yield Loss("model", *token_loss(logits, batch["tokens"], self.config.model.eos))

    @torch.no_grad()
    def evaluate(self, average: TokenModel, file: Path) -> dict[str, float]:
        """Draw the first validation captions above the true pictures; return the validation loss and accuracy."""
        some = range(min(256, len(self.validation)))
        captions = [self.validation.captions(i)[0] for i in some]
        codes = torch.from_numpy(self.validation.array("codes")[some, 0].astype(np.int64))
        codes = codes.to(next(average.parameters()).device)
        ids = caption_ids(self.model.config.text_source, self.text, captions)
        figures, eos = {"validation_loss": 0.0, "validation_accuracy": 0.0}, self.config.model.eos
        for _, read, tokens in self.parts(ids, codes.flatten(1)):
            _, scalars = token_loss(average(read.to(tokens.device), tokens), tokens, eos)
            share = (tokens != eos).sum().item() / (codes != eos).sum().item()
            for name, value in scalars.items():
                figures[f"validation_{name}"] += value.item() * share
        true = [self.tokenizer.decode(one[None, one[:, 0] != self.config.model.eos])[0] for one in codes[:12]]
        pictures = [*self.draw(average, captions[:12]), *true]
        grid(pictures, captions[:12] * 2, columns=12).save(file, format="PNG")
        return figures
