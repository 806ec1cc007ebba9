"""From logits to the token that is drawn. Pure functions of tensors, so that a graph that holds them fits any options.

Dimension names: B pictures, V tokens to choose from, T positions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sampling.options import SamplingOptions


@dataclass(frozen=True, kw_only=True)
class Draw:
    """`SamplingOptions` as tensors on a device: float32 and int64 scalars, and a guidance scale a position."""

    guidance: Tensor
    """(T + 1,) float32; the last is of an end that is certain."""
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    filtered: bool
    """Whether any token may be ruled out. A graph is traced for each of the two."""

    @classmethod
    def of(cls, options: SamplingOptions, length: int, vocabulary: int, device: torch.device) -> "Draw":
        """For pictures of `length` tokens out of `vocabulary`."""
        return cls(
            guidance=torch.tensor([*options.scales(length), 1.0], device=device),
            temperature=torch.tensor(options.temperature, device=device),
            top_k=torch.tensor(options.top_k or vocabulary, device=device),
            top_p=torch.tensor(options.top_p, device=device),
            min_p=torch.tensor(options.min_p, device=device),
            filtered=options.temperature > 0 and (options.top_k > 0 or options.top_p < 1 or options.min_p > 0),
        )


def guided(logits: Tensor, scale: float | Tensor) -> Tensor:
    """Classifier-free guidance (arXiv 2207.12598, eq. 6, on logits): u + scale * (c - u).

    `logits` (2 B, V) hold the conditional batch, then the unconditional one; returns (B, V). A token that is ruled
    out, at -inf, stays so.
    """
    conditional, unconditional = logits.chunk(2)
    mixed = unconditional + scale * (conditional - unconditional)
    return torch.where(conditional == -torch.inf, conditional, mixed)


def drawn(logits: Tensor, noise: Tensor, draw: Draw) -> Tensor:
    """The token (B,) int64 that logits (B, V) and standard Gumbel noise (B, V) come to.

    argmax(log p + noise) is a draw from p (the Gumbel-max trick), and so is argmax(temperature * (log p + noise)),
    which at temperature 0 is the most likely token.
    """
    if draw.filtered:
        logits = filtered(logits, draw)
    return (logits + draw.temperature * noise).argmax(-1)


def filtered(logits: Tensor, draw: Draw) -> Tensor:
    """Rules tokens out, -inf, by the probabilities at the draw's temperature. In this order:

    top-k keeps exactly the k most likely, of equals the first; top-p the fewest of these whose probabilities reach p
    (arXiv 1904.09751, eq. 2); min-p those at least `min_p` times as likely as the likeliest (arXiv 2407.01082).
    """
    ordered, where = logits.sort(dim=-1, descending=True, stable=True)
    kept = torch.arange(logits.shape[-1], device=logits.device) < draw.top_k
    probabilities = (ordered / draw.temperature).masked_fill(~kept, -torch.inf).softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    within = (before < draw.top_p) | (draw.top_p >= 1)  # for a sum of all may exceed 1 by rounding
    kept = kept & within & (probabilities >= draw.min_p * probabilities[:, :1])
    return torch.full_like(logits, -torch.inf).scatter(-1, where, ordered.masked_fill(~kept, -torch.inf))
