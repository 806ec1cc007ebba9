"""Exact parallel decoding: fewer passes, the same picture.

The noise is a function of (seed, position, token), so the picture is the one solution of
y_t = argmax_v [score(v | y_<t) + noise(seed, t, v)] for all t. Instead of one token after the other, a window of them
is guessed, and all are drawn anew from the guesses in one pass; what was drawn from right guesses is right (fixed-point
iteration: Predictive Sampling, arXiv 2002.09928; coupled with the draw's noise, arXiv 2510.24211).

Dimension names: B pictures, W window, T image tokens, V tokens to choose from.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sampling.logits import Draw, drawn, guided
from sampling.noise import gumbel
from seq2seq.cache import KVCache, Positions
from seq2seq.model import TokenModel


def decode_in_parallel(
    model: TokenModel,
    cache: KVCache,
    seeds: Tensor,
    draw: Draw,
    window: int,
    all_true: Callable[[], Callable[[Tensor], bool]],
    guided_until: int | None = None,
) -> tuple[Tensor, int]:
    """Draws all tokens.

    Args:
        model: in eval mode.
        cache: of the captions (B), and to guide of as many pictures without.
        seeds: (B,) int64.
        draw: how to draw.
        window: how many tokens a pass, W.
        all_true: makes a look: asked with bool (B,) whether all are true, it may answer late.
        guided_until: position from which on no token is guided; by default, none is that.

    Returns:
        Tokens (B, T) int64, arbitrary after a picture's first EOS, and the number of passes.
    """
    config = model.config
    window = min(window, config.length)
    # Column 0 is BOS; column t + 1 holds what token t is guessed or known to be.
    tokens = torch.full((len(seeds), config.length + 1), config.bos, device=seeds.device)
    settled = torch.zeros_like(seeds)  # tokens that are right; all before the window are
    have_ended, are_unguided = all_true(), all_true()
    passes = 0
    while passes < config.length:  # each pass settles at least one
        settled = one_pass(model, cache, tokens, settled, seeds, draw, window)
        passes += 1
        if have_ended(ended(tokens, settled, config.eos)):
            break
        if guided_until is not None and are_unguided(settled.clamp(max=config.length - window) >= guided_until):
            cache, guided_until = cache.without_guidance(), None  # half of the work is over
    return tokens[:, 1:], passes


def one_pass(
    model: TokenModel, cache: KVCache, tokens: Tensor, settled: Tensor, seeds: Tensor, draw: Draw, window: int
) -> Tensor:
    """Draws the tokens of every picture's window, in place, and returns how many are settled then, (B,)."""
    config = model.config
    first = settled.clamp(max=config.length - window)
    positions = first[:, None] + torch.arange(window, device=seeds.device)  # (B, W)
    twice = (2, 1) if cache.guided else (1, 1)
    logits = model.extend(tokens.gather(1, positions).repeat(twice), Positions(positions.repeat(twice)), cache)
    if cache.guided:
        logits = guided(logits, draw.guidance[positions][..., None])
    noise = gumbel(seeds[:, None], positions, logits.shape[-1])
    made = drawn(logits.flatten(0, 1), noise.flatten(0, 1), draw).view_as(positions)
    # A token is right if the guesses before it in the window were: count the leading ones that the draw confirmed.
    confirmed = (made == tokens.gather(1, positions + 1)).cumprod(1).sum(1)
    tokens.scatter_(1, positions + 1, made)
    _guess(tokens, first + window, config.grid)
    return first + (confirmed + 1).clamp(max=window)


def _guess(tokens: Tensor, last: Tensor, grid: int) -> None:
    """Guesses, in place, all that comes after column `last` (B,): what stands above, in the first row what is last."""
    columns = torch.arange(tokens.shape[1], device=tokens.device)
    above = torch.where(columns > grid, tokens.roll(grid, 1), tokens.gather(1, last[:, None]))
    tokens.copy_(torch.where(columns > last[:, None], above, tokens))


def ended(tokens: Tensor, settled: Tensor, eos: int) -> Tensor:
    """Whether each picture is whole, or has an EOS among its settled tokens: bool (B,)."""
    sure = torch.arange(tokens.shape[1] - 1, device=tokens.device) < settled[:, None]
    return ((tokens[:, 1:] == eos) & sure).any(1) | (settled == tokens.shape[1] - 1)
