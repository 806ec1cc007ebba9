"""The sampler of the diffusion model: from noise to latents, with guidance, thresholding and interpolation.

Dimension names: B batch, S caption ids, C channels, h and w rows and columns of latents.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from diffusion.condition import CaptionCache
from diffusion.loss import split_output
from diffusion.model import DiffusionModel
from diffusion.process import Process
from sampling.logits import guided
from sampling.noise import gaussian
from sampling.options import DiffusionOptions
from sampling.schedulers import Estimate, Noise, for_all, solver_for

Denoise = Callable[[Tensor, float], Estimate]
"""Takes x_t (B, C, h, w) and t, and returns the estimate of x_0."""


def sample(
    denoise: Denoise,
    process: Process,
    noise: Noise,
    options: DiffusionOptions,
    *,
    init: Tensor | None = None,
    strength: float = 1.0,
) -> Tensor:
    """Draw latents (B, C, h, w) with a denoiser, a noise process and the noise of each step.

    With `init` latents (B, C, h, w) it starts from these, with noise added up to time `strength` * T (SDEdit, arXiv
    2108.01073).
    """
    for latents in estimates(denoise, process, noise, options, init=init, strength=strength):
        last = latents
    return last


@torch.no_grad()
def estimates(
    denoise: Denoise,
    process: Process,
    noise: Noise,
    options: DiffusionOptions,
    *,
    init: Tensor | None = None,
    strength: float = 1.0,
) -> Iterator[Tensor]:
    """As `sample`, but yields each estimate of x_0 that the denoiser makes, and at last the latents drawn."""
    solver = solver_for(process, options, strength)
    x = noise(0)
    if init is not None:
        x = process.add_noise(init, x, for_all(solver.times[0]))
    for call, time in enumerate(solver.times):
        estimate = denoise(x, time)
        yield estimate.x_0
        x = solver.step(call, x, estimate, noise)
    yield x


def denoiser(model: DiffusionModel, text: Tensor, null: Tensor, options: DiffusionOptions) -> Denoise:
    """A function that estimates x_0 for a batch of captions, with the guidance and thresholding of `options`.

    Each call runs the model once: with guidance on a doubled batch, and outside the interval of guidance without it.

    Args:
        model: in eval mode.
        text: caption ids (B, S) int64. They are encoded once, and once more if only a part of the steps is guided.
        null: ids of the null caption (1, S) int64, for guidance.
        options: how to draw.
    """
    guided_captions, captions = CaptionCache(torch.cat([text, null.expand_as(text)])), CaptionCache(text)

    def denoise(x: Tensor, t: float) -> Estimate:
        times = torch.full((1,), t, device=x.device)  # not copied there, which would stop a GPU
        if options.guides_at(t / model.process.steps):
            output = model(x.repeat(2, 1, 1, 1), times, guided_captions)
            both, both_shares = split_output(output, x.shape[1])
            output, share = guided(both, options.guidance), None if both_shares is None else both_shares[: len(x)]
        else:
            output, share = split_output(model(x, times, captions), x.shape[1])
        x_0, _ = model.process.estimates(output, x, for_all(t))
        if options.threshold:
            x_0 = thresholded(x_0, options.threshold, model.config.latent_bound)
        return Estimate(x_0, share)

    return denoise


def thresholded(x_0: Tensor, quantile: float, bound: float) -> Tensor:
    """Dynamic thresholding (Imagen, arXiv 2205.11487, section 2.3): (B, C, h, w) -> (B, C, h, w).

    Let s be the `quantile` of a picture's magnitudes. Where s exceeds `bound` (1 in the paper, for pixels), the picture
    is clipped at s and scaled by bound / s, so that strong guidance does not saturate it.
    """
    s = x_0.abs().flatten(1).quantile(quantile, dim=1).clamp_min(bound).view(-1, 1, 1, 1)
    return x_0.clamp(-s, s) * (bound / s)


def seeded_noise(seeds: Tensor, shape: tuple[int, int, int]) -> Noise:
    """The noise for `seeds` (B,) int64 and latents of `shape` (C, h, w). It does not depend on the batch."""
    channels, rows, columns = shape
    return lambda step: gaussian(seeds, step, channels * rows * columns).view(-1, channels, rows, columns)


def interpolated_noise(first: Noise, second: Noise, part: Tensor) -> Noise:
    """Spherical interpolation of two noises at `part` (B,) from 0 to 1.

    Of independent noises, that is, of different seeds, the result is standard normal too.
    """
    angle = (part * torch.pi / 2).view(-1, 1, 1, 1)
    return lambda step: angle.cos() * first(step) + angle.sin() * second(step)


def interpolated_denoiser(first: Denoise, second: Denoise, part: Tensor) -> Denoise:
    """Linear interpolation of two denoisers' estimates at `part` (B,) from 0 to 1."""
    weight = part.view(-1, 1, 1, 1)

    def denoise(x: Tensor, t: float) -> Estimate:
        a, b = first(x, t), second(x, t)
        share = None if a.share is None or b.share is None else torch.lerp(a.share, b.share, weight)
        return Estimate(torch.lerp(a.x_0, b.x_0, weight), share)

    return denoise
