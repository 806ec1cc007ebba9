"""The autoregressive sampler."""

import torch
from torch import Tensor

from sampling.logits import guided, scores
from sampling.noise import gumbel
from sampling.options import SamplingOptions
from seq2seq.model import TokenModel


@torch.no_grad()
def decode(model: TokenModel, text: Tensor, null: Tensor, seeds: Tensor, options: SamplingOptions) -> list[Tensor]:
    """Draws image tokens until every picture of the batch has reached its own EOS.

    Args:
        model: in eval mode.
        text: caption ids (B, S) int64.
        null: the null caption's ids (1, S), for guidance.
        seeds: (B,) int64, one an image; with the caption they fix the picture, whatever else is in the batch.
        options: how to draw.

    Returns:
        Codes of each picture, (h, w) int64, h from 1 to the model's grid.
    """
    guide = options.guidance != 1
    cache = model.cache(torch.cat([text, null.expand_as(text)]) if guide else text)
    token = torch.full_like(seeds, model.config.bos)
    finished = torch.zeros_like(seeds, dtype=torch.bool)
    drawn = []
    for position in range(model.config.length):  # past the last token only EOS is left
        logits = model.step(token.repeat(2) if guide else token, position, cache)
        if guide:
            logits = guided(logits, options.guidance)
        token = (scores(logits, options) + gumbel(seeds, position, logits.shape[-1])).argmax(-1)
        drawn.append(token)
        finished |= token == model.config.eos
        if position % model.config.grid == 0 and finished.all():
            break
    return [_until_eos(row, model.config.eos, model.config.grid) for row in torch.stack(drawn, dim=1)]


def _until_eos(tokens: Tensor, eos: int, grid: int) -> Tensor:
    """The whole rows before the first EOS: (T,) -> (h, w)."""
    ended = (tokens == eos).nonzero()
    return tokens[: int(ended[0]) if len(ended) else None].view(-1, grid)
