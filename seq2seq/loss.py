"""The token model's loss."""

import torch
from torch import Tensor
from torch.nn import functional as F


def token_loss(logits: Tensor, tokens: Tensor, eos: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Negative log-likelihood of pictures, EOS included, in nats an image token.

    Args:
        logits: (B, T + 1, K + 1).
        tokens: whole pictures, (B, T) int64.
        eos: the token that ends a picture.

    Returns:
        The loss, and the share of tokens whose most likely value was the true one.
    """
    targets = F.pad(tokens, (0, 1), value=eos)
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum") / tokens.numel()
    accuracy = (logits[:, :-1].argmax(-1) == tokens).float().mean()
    return loss, {"accuracy": accuracy}


def log_likelihood(logits: Tensor, tokens: Tensor, eos: int) -> Tensor:
    """Log-probability of each picture, EOS included, in nats: logits (B, T + 1, K + 1), tokens (B, T) -> (B,)."""
    targets = F.pad(tokens, (0, 1), value=eos)
    chosen = torch.log_softmax(logits.float(), -1).gather(-1, targets[..., None])
    return chosen.squeeze(-1).sum(-1)
