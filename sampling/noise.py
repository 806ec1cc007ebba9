"""Noise as a function of (seed, position, token), or for diffusion of (seed, step, element).

The values are the same on any device and in any batch. This is a counter-based random number generator in integer
tensor code, so there is no state to keep.
"""

import math

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_GUMBEL, _GAUSSIAN = 0x51ED270B, 0x2545F491  # give the two kinds of noise different bits


def gumbel(seeds: Tensor, position: int | Tensor, vocabulary: int) -> Tensor:
    """Standard Gumbel noise, float32: (B, vocabulary) for seeds (B,) int64 and one position, or a position each (B,).

    For seeds (B, 1) and positions (B, T) it is (B, T, vocabulary). argmax(log p + gumbel) is a sample of p (the
    Gumbel-max trick).
    """
    return -torch.log(-torch.log(_uniform(_bits(seeds, _GUMBEL, position, vocabulary))))


def gaussian(seeds: Tensor, step: int | Tensor, elements: int) -> Tensor:
    """Standard normal noise (B, elements) float32 for seeds (B,) int64 at one step, all values within 5.3 of zero."""
    uniform = _uniform(_bits(seeds, _GAUSSIAN, step, elements))
    return math.sqrt(2) * torch.erfinv(2 * uniform - 1)  # exact in its argument, so symmetric about zero


def _bits(seeds: Tensor, kind: int, position: int | Tensor, count: int) -> Tensor:
    """32 random bits, held in int64, for each seed and element: (..., count)."""
    elements = torch.arange(count, device=seeds.device)
    stream = _mix(_mix(_fold(seeds)) ^ _mix(torch.as_tensor(position) ^ kind))  # an `int` stays on the CPU, a number
    return _mix(stream[..., None] ^ _mix(elements))


def _uniform(bits: Tensor) -> Tensor:
    """32 random bits -> float32 strictly between 0 and 1: the centre of one of 2**23 equal cells, which is exact."""
    return ((bits >> 9).float() + 0.5) * 2.0**-23


def _fold(seeds: Tensor) -> Tensor:
    """int64 -> 32 bits. Seeds that differ only in their high half get different results."""
    return (seeds & _MASK) ^ _mix((seeds >> 32) & _MASK)


def _mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit integers held in int64: two multiply-xorshift rounds (constants found by C. Wellons).

    Both multipliers are below 2**31, so a product fits into int64.
    """
    x = x ^ (x >> 16)  # a new tensor; from here on in place
    x.mul_(0x21F0AAAD).bitwise_and_(_MASK)
    x ^= x >> 15
    x.mul_(0x735A2D97).bitwise_and_(_MASK)
    x ^= x >> 15
    return x
