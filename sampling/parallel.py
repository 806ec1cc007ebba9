"""Exact parallel decoding: the same picture in fewer passes of the decoder.

The noise is a function of (seed, position, token). So the picture is the one solution of
y_t = argmax_v [score(v | y_<t) + noise(seed, t, v)] for all t. Instead of drawing one token at a time, guess a window
of tokens and draw all of them from these guesses in one pass. A token that was drawn from right guesses is right
(fixed-point iteration: Predictive Sampling, arXiv 2002.09928; with the noise shared, arXiv 2510.24211).

Dimension names: B pictures, W window, T image tokens, V tokens to choose from.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sampling.logits import OptionTensors, draw_tokens, guided
from sampling.noise import gumbel
from seq2seq.cache import KVCache, Positions
from seq2seq.model import TokenModel


def decode_in_parallel(
    model: TokenModel,
    cache: KVCache,
    seeds: Tensor,
    options: OptionTensors,
    window: int,
    new_check: Callable[[], Callable[[Tensor], bool]],
    guided_length: int | None = None,
) -> tuple[Tensor, int]:
    """Draw all tokens of a batch of pictures.

    Args:
        model: in eval mode.
        cache: holds the captions (B), and for guidance as many null captions.
        seeds: (B,) int64.
        options: how to draw.
        window: tokens a pass, W.
        new_check: makes a function that says whether a bool (B,) is all true; it may answer late (`DelayedAll`).
        guided_length: position from which on no token is guided; None if guidance never ends.

    Returns:
        Tokens (B, T) int64, arbitrary after a picture's first EOS, and the number of passes.
    """
    config = model.config
    window = min(window, config.length)
    # Column 0 is BOS; column t + 1 holds token t, guessed or final.
    tokens = torch.full((len(seeds), config.length + 1), config.bos, device=seeds.device)
    settled = torch.zeros_like(seeds)  # how many tokens of each picture are final
    all_ended, all_unguided = new_check(), new_check()
    passes = 0
    while passes < config.length:  # each pass settles at least one token
        settled = one_pass(model, cache, tokens, settled, seeds, options, window)
        passes += 1
        if all_ended(ended(tokens, settled, config.eos)):
            break
        if guided_length is not None and all_unguided(settled.clamp(max=config.length - window) >= guided_length):
            cache, guided_length = cache.without_guidance(), None  # without null captions a pass costs half
    return tokens[:, 1:], passes


def one_pass(
    model: TokenModel,
    cache: KVCache,
    tokens: Tensor,
    settled: Tensor,
    seeds: Tensor,
    options: OptionTensors,
    window: int,
) -> Tensor:
    """Draw the tokens in every picture's window, in place; returns how many are final then, (B,) int64."""
    config = model.config
    first = settled.clamp(max=config.length - window)
    positions = first[:, None] + torch.arange(window, device=seeds.device)  # (B, W)
    twice = (2, 1) if cache.guided else (1, 1)
    logits = model.extend(tokens.gather(1, positions).repeat(twice), Positions(positions.repeat(twice)), cache)
    if cache.guided:
        logits = guided(logits, options.guidance[positions][..., None])
    noise = gumbel(seeds[:, None], positions, logits.shape[-1])
    found = draw_tokens(logits.flatten(0, 1), noise.flatten(0, 1), options).view_as(positions)
    # A token is right if all guesses before it in the window were: count the leading guesses that the pass confirmed.
    confirmed = (found == tokens.gather(1, positions + 1)).cumprod(1).sum(1)
    tokens.scatter_(1, positions + 1, found)
    _guess(tokens, first + window, config.columns)
    return first + (confirmed + 1).clamp(max=window)


def _guess(tokens: Tensor, last: Tensor, row: int) -> None:
    """Guess, in place, all tokens after column `last` (B,): the token above; in the first row the token at `last`.

    A row of the picture has `row` tokens.
    """
    columns = torch.arange(tokens.shape[1], device=tokens.device)
    above = torch.where(columns > row, tokens.roll(row, 1), tokens.gather(1, last[:, None]))
    tokens.copy_(torch.where(columns > last[:, None], above, tokens))


def ended(tokens: Tensor, settled: Tensor, eos: int) -> Tensor:
    """Whether each picture has all its tokens, or an EOS among its final ones: bool (B,)."""
    final = torch.arange(tokens.shape[1] - 1, device=tokens.device) < settled[:, None]
    return ((tokens[:, 1:] == eos) & final).any(1) | (settled == tokens.shape[1] - 1)
