"""Quality for compute: of several candidates, the one that says most of its caption."""

from collections.abc import Sequence

import torch
from torch import Tensor

from seq2seq.loss import log_likelihood
from seq2seq.model import TokenModel, null_caption


@torch.no_grad()
def caption_gain(model: TokenModel, text: Tensor, codes: Sequence[Tensor]) -> Tensor:
    """log p(picture | caption) - log p(picture), in nats, (B,): how much likelier its caption makes a picture.

    The likelihood alone would prefer what is likely anyway, an empty background; the ratio is what guidance raises.

    Args:
        model: in eval mode.
        text: caption ids (B, S) int64.
        codes: (h, w) int64 each, of any heights.
    """
    gains = torch.empty(len(codes), device=text.device)
    for height in {len(grid) for grid in codes}:
        which = [i for i, grid in enumerate(codes) if len(grid) == height]
        tokens = torch.stack([codes[i] for i in which]).flatten(1).to(text.device)
        with_caption, without = (
            log_likelihood(model(ids, tokens), tokens, model.config.eos)
            for ids in (text[which], null_caption(text[which]))
        )
        gains[which] = with_caption - without
    return gains


def candidate_seeds(seeds: Tensor, candidate: int) -> Tensor:
    """Seeds (B,) int64 of candidate number `candidate`, 0 being the picture that would have been drawn alone."""
    return seeds + candidate * 2**40
