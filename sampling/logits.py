"""From the model's logits to the tokens that are drawn. Pure functions, options as tensors: one graph fits all.

Dimension names: B pictures, V tokens to choose from, T positions.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sampling.options import SamplingOptions


@dataclass(frozen=True, kw_only=True)
class OptionTensors:
    """`SamplingOptions` as tensors on a device. `temperature`, `top_p` and `min_p` are float32 scalars, `top_k` int64.

    `top_k` is the size of the vocabulary where it is off.
    """

    guidance: Tensor
    """The guidance scale of each position, (T + 1,) float32; the last one is for the EOS after a full picture."""
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    filtered: bool
    """Whether top-k, top-p or min-p rules tokens out. Each of the two values needs its own graph."""

    @classmethod
    def of(cls, options: SamplingOptions, length: int, vocabulary: int, device: torch.device) -> "OptionTensors":
        """The tensors for pictures of `length` tokens from a `vocabulary` of that many."""
        return cls(
            guidance=torch.tensor([*options.guidance_scales(length), 1.0], device=device),
            temperature=torch.tensor(options.temperature, device=device),
            top_k=torch.tensor(options.top_k or vocabulary, device=device),
            top_p=torch.tensor(options.top_p, device=device),
            min_p=torch.tensor(options.min_p, device=device),
            filtered=options.temperature > 0 and (options.top_k > 0 or options.top_p < 1 or options.min_p > 0),
        )

    def replaced_by(self, new: "OptionTensors") -> "OptionTensors":
        """Copy the values of `new` into these tensors, because graphs refer to them."""
        for name, tensor in vars(new).items():
            if isinstance(tensor, Tensor):
                getattr(self, name).copy_(tensor)
        return replace(self, filtered=new.filtered)


def guided(logits: Tensor, scale: float | Tensor) -> Tensor:
    """Apply classifier-free guidance (arXiv 2207.12598, eq. 6, on logits): u + scale * (c - u).

    `logits` (2 B, V) hold the conditional batch, then the unconditional one; returns (B, V). A token at -inf in the
    conditional batch stays at -inf. At scale 1 the result is exactly the conditional batch, whatever the other one is.
    """
    conditional, unconditional = logits.chunk(2)
    mixed = unconditional + scale * (conditional - unconditional)
    return torch.where((conditional == -torch.inf) | (scale == 1), conditional, mixed)


def draw_tokens(logits: Tensor, noise: Tensor, options: OptionTensors) -> Tensor:
    """Draw a token for each row of logits (B, V), given standard Gumbel noise (B, V); returns (B,) int64.

    argmax(log p + noise) is a sample of p (the Gumbel-max trick). So is argmax(temperature * (log p + noise)), which
    at temperature 0 is the most likely token.
    """
    if options.filtered:
        logits = filtered(logits, options)
    return (logits + options.temperature * noise).argmax(-1)


def filtered(logits: Tensor, options: OptionTensors) -> Tensor:
    """Set the logits of tokens that are ruled out to -inf; the others stay as they are. (B, V) -> (B, V).

    Probabilities are those at the options' temperature. In this order: top-k keeps exactly the k most likely tokens,
    of equal ones the first; top-p keeps the fewest of these whose probabilities reach p (arXiv 1904.09751, eq. 2);
    min-p keeps those at least `min_p` times as likely as the most likely one (arXiv 2407.01082).
    """
    ordered, where = logits.sort(dim=-1, descending=True, stable=True)
    kept = torch.arange(logits.shape[-1], device=logits.device) < options.top_k
    probabilities = (ordered / options.temperature).masked_fill(~kept, -torch.inf).softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    within = (before < options.top_p) | (options.top_p >= 1)  # the sum of all may exceed 1 by rounding
    kept = kept & within & (probabilities >= options.min_p * probabilities[:, :1])
    return torch.full_like(logits, -torch.inf).scatter(-1, where, ordered.masked_fill(~kept, -torch.inf))
