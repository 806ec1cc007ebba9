"""The diffusion sampler.

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
from sampling.schedulers import Estimate, Noise, solver_for

Denoise = Callable[[Tensor, Tensor], Estimate]
"""x_t (B, C, h, w) and t (B,) -> the estimate of x_0."""


def sample(
    denoise: Denoise,
    process: Process,
    noise: Noise,
    options: DiffusionOptions,
    *,
    init: Tensor | None = None,
    strength: float = 1.0,
) -> Tensor:
    """Draws latents (B, C, h, w), as a plain function of a denoiser, a noise process and the noise of each step.

    Given `init` latents, it starts from these, noised up to `strength` of the way (SDEdit, arXiv 2108.01073).
    """
    for latents in estimates(denoise, process, noise, options, init=init, strength=strength):
        drawn = latents
    return drawn


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
    """As `sample`, but yields what the denoiser sees in the noise at each look, and at last the latents drawn."""
    solver = solver_for(process, options, strength)
    x = noise(0)
    if init is not None:
        x = process.add_noise(init, x, x.new_full((len(x),), solver.times[0]))
    for call, time in enumerate(solver.times):
        estimate = denoise(x, x.new_full((len(x),), time))
        yield estimate.x_0
        x = solver.step(call, x, estimate, noise)
    yield x


def denoiser(model: DiffusionModel, text: Tensor, null: Tensor, options: DiffusionOptions) -> Denoise:
    """The model's estimates under a caption, guided and thresholded as `options` say; one pass a call.

    Args:
        model: in eval mode.
        text: caption ids (B, S) int64, read once.
        null: the null caption's ids (1, S), for guidance.
        options: how to draw.
    """
    guide = options.guidance != 1
    caption = CaptionCache(torch.cat([text, null.expand_as(text)]) if guide else text)

    def denoise(x: Tensor, t: Tensor) -> Estimate:
        if guide:
            both, both_shares = split_output(model(x.repeat(2, 1, 1, 1), t.repeat(2), caption), x.shape[1])
            said, share = guided(both, options.guidance), None if both_shares is None else both_shares[: len(x)]
        else:
            said, share = split_output(model(x, t, caption), x.shape[1])
        x_0, _ = model.process.estimates(said, x, t)
        if options.threshold:
            x_0 = thresholded(x_0, options.threshold, model.config.latent_bound)
        return Estimate(x_0, share)

    return denoise


def thresholded(x_0: Tensor, quantile: float, bound: float) -> Tensor:
    """Dynamic thresholding (Imagen, arXiv 2205.11487, section 2.3): (B, C, h, w) -> the same.

    A picture whose `quantile` of magnitudes, s, exceeds `bound` (there 1, of pixels) is cut at s and scaled down by
    bound / s, so that much guidance does not saturate it.
    """
    s = x_0.abs().flatten(1).quantile(quantile, dim=1).clamp_min(bound).view(-1, 1, 1, 1)
    return x_0.clamp(-s, s) * (bound / s)


def seeded(seeds: Tensor, shape: tuple[int, int, int]) -> Noise:
    """The noise of pictures with `seeds` (B,) int64, latents of `shape` (C, h, w): the same in any batch."""
    channels, rows, columns = shape
    return lambda step: gaussian(seeds, step, channels * rows * columns).view(-1, channels, rows, columns)


def mixed(first: Noise, second: Noise, part: Tensor) -> Noise:
    """Between two noises, `part` (B,) of the way; standard normal all along (spherical interpolation)."""
    angle = (part * torch.pi / 2).view(-1, 1, 1, 1)
    return lambda step: angle.cos() * first(step) + angle.sin() * second(step)


def between(first: Denoise, second: Denoise, part: Tensor) -> Denoise:
    """Estimates between those under two captions, `part` (B,) of the way."""
    weight = part.view(-1, 1, 1, 1)

    def denoise(x: Tensor, t: Tensor) -> Estimate:
        a, b = first(x, t), second(x, t)
        share = None if a.share is None or b.share is None else torch.lerp(a.share, b.share, weight)
        return Estimate(torch.lerp(a.x_0, b.x_0, weight), share)

    return denoise
