"""Training batches of the token model."""

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from data.codes import CodesInfo
from data.store import Store
from seq2seq.frozen_text import caption_ids
from seq2seq.loss import drop_tokens
from seq2seq.options import TokenTrainingConfig
from tokenizer.text import TextTokenizer, trim_padding
from training.batches import Batch
from training.group_sampler import GroupSampler


class TokenBatches:
    """Makes batches from stores of codes. It can be pickled, for the workers of a data loader."""

    def __init__(
        self, codes: Store[CodesInfo], validation: Store[CodesInfo], text: TextTokenizer, config: TokenTrainingConfig
    ) -> None:
        self.origin = {"train": codes.info.origin, "validation": validation.info.origin}
        self._groups = GroupSampler(codes.array("group"))
        self._codes, self._bos = codes, config.model.bos
        self._ids = partial(caption_ids, config.model.text_source, text)
        self._caption_dropout, self._token_dropout = config.caption_dropout, config.token_dropout

    def __len__(self) -> int:
        return len(self._groups)

    def __call__(self, indices: NDArray[np.int64], generator: torch.Generator) -> Batch:
        """Make a batch of the groups `indices`, with a random view and a random caption, or the null caption, of each.

        Returns `text` (B, S) caption ids, `tokens` (B, T), and `inputs` (B, T) for the decoder; all int64.
        """
        captions: list[str | None] = []
        views = []
        for group in map(int, indices):
            where, which, view = torch.rand(3, generator=generator).tolist()
            i = self._groups.example(group, where)
            choice = self._codes.captions(i)
            captions.append(choice[int(which * len(choice))])
            views.append(self._codes.array("codes")[i, int(view * self._codes.info.views)])
        dropped = torch.rand(len(captions), generator=generator) < self._caption_dropout
        captions = [None if drop else caption for caption, drop in zip(captions, dropped, strict=True)]
        tokens = torch.from_numpy(np.stack(views).astype(np.int64)).flatten(1)
        inputs = drop_tokens(tokens, self._token_dropout, self._bos, generator)
        return {"text": trim_padding(self._ids(captions)), "tokens": tokens, "inputs": inputs}
