"""From logits to the scores a token is drawn by. Pure functions of tensors."""

import torch
from torch import Tensor

from sampling.options import SamplingOptions


def guided(logits: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (arXiv 2207.12598, eq. 6, on logits): u + scale * (c - u).

    `logits` (2 B, V) hold the conditional batch, then the unconditional one; returns (B, V). A token that is ruled
    out, at -inf, stays so.
    """
    conditional, unconditional = logits.chunk(2)
    mixed = unconditional + scale * (conditional - unconditional)
    return torch.where(conditional == -torch.inf, conditional, mixed)


def scores(logits: Tensor, options: SamplingOptions) -> Tensor:
    """Temperature, then top-k, then top-p: logits (B, V) -> scores (B, V), -inf where a token is ruled out.

    Drawing is argmax(scores + gumbel). At temperature 0 only the most likely token is left.
    """
    if options.temperature == 0:
        return top_k(logits, 1)
    logits = logits / options.temperature
    if options.top_k:
        logits = top_k(logits, options.top_k)
    if options.top_p < 1:
        logits = top_p(logits, options.top_p)
    return logits


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keeps exactly the `k` largest of each row, the rest -inf; of equals the ones `torch.topk` returns."""
    kept, where = logits.topk(min(k, logits.shape[-1]), dim=-1)
    return torch.full_like(logits, -torch.inf).scatter(-1, where, kept)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keeps the fewest most likely tokens of each row whose probabilities reach `p` (arXiv 1904.09751, eq. 2)."""
    ordered, where = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    return torch.full_like(logits, -torch.inf).scatter(-1, where, ordered.masked_fill(before >= p, -torch.inf))
