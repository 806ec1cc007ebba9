"""Loss and likelihood of the token model."""

import torch
from torch import Tensor
from torch.nn import functional as F

_IGNORED = -100
"""A target that `cross_entropy` leaves out."""


def token_loss(logits: Tensor, tokens: Tensor, eos: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Negative log-likelihood of pictures with EOS, averaged over pictures, in nats per token of a whole picture.

    The divisor does not depend on where pictures end. So the mean over the parts of a batch, which processes or
    accumulated passes see, is the loss of the batch.

    Args:
        logits: predictions (B, T + 1, K + 1).
        tokens: pictures, (B, T) int64. One that ends early has EOS to its end.
        eos: the token that ends a picture.

    Returns:
        The loss, a scalar, and two more for the log: `loss` in nats per token that the pictures have, and `accuracy`,
        the share of these tokens whose most likely value is the true one.
    """
    of_pictures = tokens != eos
    count = of_pictures.sum()
    nats = F.cross_entropy(logits.flatten(0, 1), _targets(tokens, eos).flatten(), reduction="sum")
    right = (logits[:, :-1].argmax(-1) == tokens) & of_pictures
    return nats / tokens.numel(), {"loss": nats / count, "accuracy": right.sum() / count}


def drop_tokens(tokens: Tensor, most: float, unknown: int, generator: torch.Generator) -> Tensor:
    """Replace a random share of each picture's tokens (B, T) by the token `unknown`; the share is from 0 to `most`.

    This is the word dropout of arXiv 1511.06349, section 3.1, for the decoder's inputs. Without it, a decoder may learn
    to ignore what it is conditioned on.
    """
    share = most * torch.rand(len(tokens), 1, generator=generator)
    return torch.where(torch.rand(tokens.shape, generator=generator) < share, unknown, tokens)


def log_likelihood(logits: Tensor, tokens: Tensor, eos: int) -> Tensor:
    """Log-probability of each picture with EOS, in nats: logits (B, T + 1, K + 1), tokens (B, T) -> (B,)."""
    targets = _targets(tokens, eos)
    chosen = torch.log_softmax(logits.float(), -1).gather(-1, targets.clamp_min(0)[..., None]).squeeze(-1)
    return chosen.masked_fill(targets == _IGNORED, 0).sum(-1)


def _targets(tokens: Tensor, eos: int) -> Tensor:
    """Each picture's tokens and the EOS that ends it, (B, T) -> (B, T + 1); what comes after is ignored."""
    after_eos = F.pad(tokens == eos, (1, 0))
    return F.pad(tokens, (0, 1), value=eos).masked_fill(after_eos, _IGNORED)
