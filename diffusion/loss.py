"""The training loss of the diffusion model, and the variational bound.

Dimension names: B batch, C channels, h and w rows and columns of latents, T steps.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from diffusion.process import Process, as_of

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""x_t (B, C, h, w), t (B,) -> predicted target (B, C, h, w); with learned variance, (B, 2 C, h, w)."""

HYBRID = 0.001
"""Weight of the variational bound in the hybrid loss, with learned variance (Improved DDPM section 3.1)."""


def diffusion_loss(
    denoise: Denoiser, process: Process, x_0: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Training loss at random times for clean latents x_0 (B, C, h, w): a scalar (DDPM algorithm 1, lines 2 to 5)."""
    t = process.sample_times(len(x_0), generator)
    noise = _noise_like(x_0, generator)
    x_t = process.add_noise(x_0, noise, t)
    predicted, v = split_output(denoise(x_t, t.to(x_0.device)), x_0.shape[1])
    error = (predicted - process.target(x_0, noise, t)).square().flatten(1).mean(1)
    loss = (as_of(error, process.weight(t)) * error).mean()  # eq. 14
    if v is not None:  # Improved DDPM eq. 16; the bound trains only the variance
        loss = loss + HYBRID * process.steps * bound_term(process, x_0, x_t, t, predicted.detach(), v).mean()
    return loss


def bits_per_dimension(
    denoise: Denoiser, process: Process, x_0: Tensor, generator: torch.Generator, times: int | None = None
) -> Tensor:
    """The variational bound on -log2 p(x_0) per element (DDPM eq. 5) of each picture's latents x_0 (B, C, h, w): (B,).

    It sums over all T steps, which takes T passes of the denoiser; `times` limits them to a weighted sample of steps.
    p is a density of standardised latents. So the bound may be negative, and only compares models that have the same
    image tokenizer.
    """
    alpha, sigma = process.alpha[-1], process.sigma[-1]
    # L_T: KL of q(x_T | x_0) from a standard normal
    prior = 0.5 * (alpha.square() * x_0.cpu().double().square() + sigma.square() - 1 - 2 * sigma.log()) / math.log(2)
    total = as_of(x_0, prior.flatten(1).mean(1))
    for step, weight in _weighted_times(process.steps, times):
        t = torch.full((len(x_0),), float(step))
        x_t = process.add_noise(x_0, _noise_like(x_0, generator), t)
        predicted, v = split_output(denoise(x_t, t.to(x_0.device)), x_0.shape[1])
        total = total + weight * bound_term(process, x_0, x_t, t, predicted, v)
    return total


def bound_term(process: Process, x_0: Tensor, x_t: Tensor, t: Tensor, predicted: Tensor, v: Tensor | None) -> Tensor:
    """The term of the bound at time t, L_(t-1) of DDPM eq. 5, in bits per element: (B,)."""
    s = t - 1
    estimate, _ = process.estimates(predicted, x_t, t)
    true, mean = process.posterior_mean(x_0, x_t, s, t), process.posterior_mean(estimate, x_t, s, t)
    true_log, log_variance = process.log_variance(s, t), process.log_variance(s, t, v)
    squared = (true - mean).cpu().double().square()
    kl = 0.5 * (log_variance - true_log + ((true_log - log_variance).exp() - 1) + squared * (-log_variance).exp())
    # L_0 is a likelihood: there, the posterior is x_0 itself
    nll = 0.5 * (math.log(2 * math.pi) + log_variance + squared * (-log_variance).exp())
    nats = torch.where(t.cpu().view(-1, 1, 1, 1) > 1, kl, nll)
    return as_of(x_0, (nats / math.log(2)).flatten(1).mean(1))


def split_output(output: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """Split the denoiser's output into the predicted target and v of `Process.log_variance`; None without v."""
    return output[:, :channels], output[:, channels:] if output.shape[1] > channels else None


def _weighted_times(steps: int, times: int | None) -> list[tuple[int, int]]:
    """At most `times` of the times 1..T, each with its weight: the number of times that it represents.

    They are denser near 1, where the terms of the bound are larger.
    """
    if times is None or times >= steps:
        return [(t, 1) for t in range(1, steps + 1)]
    chosen = sorted({round(steps ** (k / max(1, times - 1))) for k in range(times)})
    edges = [1, *(math.ceil(math.sqrt(a * b)) for a, b in pairwise(chosen)), steps + 1]
    return [(t, high - low) for t, (low, high) in zip(chosen, pairwise(edges), strict=True)]


def _noise_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator else x.device
    return torch.randn(x.shape, dtype=x.dtype, device=device, generator=generator).to(x.device)
