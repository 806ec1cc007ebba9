"""Noise as a function: the same draw for the same (seed, position, token), on any device, in any batch.

Or, for the diffusion sampler, of (seed, step, element).

A counter-based generator in plain integer tensor code: nothing to carry along, nothing to get out of step.
"""

import math

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_GUMBEL, _GAUSSIAN = 0x51ED270B, 0x2545F491  # keep the two apart


def gumbel(seeds: Tensor, position: int | Tensor, vocabulary: int) -> Tensor:
    """Standard Gumbel noise (B, vocabulary) float32 for image seeds (B,) int64 at one position; or (B, T, vocabulary)
    for seeds (B, 1) at positions (B, T) of their own.

    argmax(log p + gumbel) is a draw from p (the Gumbel-max trick).
    """
    return -torch.log(-torch.log(_uniform(_bits(seeds, _GUMBEL, position, vocabulary))))


def gaussian(seeds: Tensor, step: int | Tensor, elements: int) -> Tensor:
    """Standard normal noise (B, elements) float32 for image seeds (B,) int64 at one step, within 5.3 of zero."""
    uniform = _uniform(_bits(seeds, _GAUSSIAN, step, elements))
    return math.sqrt(2) * torch.erfinv(2 * uniform - 1)  # exact in its argument, so symmetric about zero


def _bits(seeds: Tensor, kind: int, position: int | Tensor, count: int) -> Tensor:
    """32 random bits, held in int64, for each of (..., count)."""
    elements = torch.arange(count, device=seeds.device)
    stream = _mix(_mix(_fold(seeds)) ^ _mix(torch.as_tensor(position, device=seeds.device) ^ kind))
    return _mix(stream[..., None] ^ _mix(elements))


def _uniform(bits: Tensor) -> Tensor:
    """32 random bits -> float32 strictly between 0 and 1: the centres of 2**23 equal cells, all of them exact."""
    return ((bits >> 9).float() + 0.5) * 2.0**-23


def _fold(seeds: Tensor) -> Tensor:
    """int64 -> 32 bits, so that seeds that differ only in their high half differ still."""
    return (seeds & _MASK) ^ _mix((seeds >> 32) & _MASK)


def _mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit integers held in int64, two multiply-xorshift rounds (constants of C. Wellons's search).

    Both multipliers are below 2**31, so a product never leaves int64.
    """
    x = x ^ (x >> 16)  # a new tensor; from here on in place
    x.mul_(0x21F0AAAD).bitwise_and_(_MASK)
    x ^= x >> 15
    x.mul_(0x735A2D97).bitwise_and_(_MASK)
    x ^= x >> 15
    return x
