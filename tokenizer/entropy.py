"""Entropies that make a quantizer choose codes confidently and use all of them (arXiv 2310.05737, eq. 5).

Both functions return `entropy`, the mean entropy of the code of one vector, and `diversity`, minus the entropy of the
mean distribution of codes. Both are in nats, and a quantizer makes both small. The mean is over all processes.

Dimension names: N vectors, K codes, C bits of a code.
"""

import torch
from torch import Tensor, distributed
from torch.nn import functional as F


def code_entropies(logits: Tensor) -> dict[str, Tensor]:
    """Entropies of codes with these logits (N, K)."""
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    return {"entropy": -(p * log_p).sum(-1).mean(), "diversity": -_entropy(_over_processes(p.mean(0)))}


def bit_entropies(logits: Tensor) -> dict[str, Tensor]:
    """Entropies of codes whose bits have these log-odds (N, C).

    The bits of one vector are independent, so their entropies add up, and the probability of a code is a product. The
    mean over vectors is then a matrix product of the codes' low and high halves: no vector needs a value for each of
    the 2^C codes.
    """
    entropy = (F.softplus(logits) - logits * torch.sigmoid(logits)).sum(-1).mean()
    low, high = (_joint(half) for half in logits.tensor_split(2, dim=-1))
    return {"entropy": entropy, "diversity": -_entropy(_over_processes(low.T @ high / len(logits)))}


def _joint(logits: Tensor) -> Tensor:
    """Log-odds of bits (N, C) -> probability of each combination of them (N, 2^C)."""
    joint = logits.new_ones(len(logits), 1)
    for bit in logits.unbind(-1):
        p = torch.sigmoid(torch.stack([-bit, bit], -1))
        joint = (joint[:, :, None] * p[:, None]).flatten(1)
    return joint


def _entropy(p: Tensor) -> Tensor:
    return -(p * p.clamp_min(1e-20).log()).sum()  # the derivative of entr(p) is infinite at 0


def _over_processes(mean: Tensor) -> Tensor:
    """Mean of a tensor over all processes. The gradient is that of the own tensor, as DDP takes its mean."""
    if not distributed.is_initialized():
        return mean
    total = mean.detach().clone()
    distributed.all_reduce(total)
    return mean + (total / distributed.get_world_size() - mean).detach()
