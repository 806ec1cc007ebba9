"""The noise process: how noise is added to latents step by step, and the posterior of a step back.

    x_t = alpha_t x_0 + sigma_t noise,  t from 0 (clean) to T (noise)

In the notation of DDPM (arXiv 2006.11239), alpha_t is sqrt(alpha_bar_t) and sigma_t is sqrt(1 - alpha_bar_t).

Dimension names: B batch, C channels, h and w rows and columns of latents, T steps.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from training.config import require

Target = Literal["epsilon", "x0", "v", "velocity"]


@dataclass(kw_only=True)
class ProcessConfig:
    """How noise is added, and what the denoiser predicts."""

    schedule: Literal["linear", "cosine", "flow"] = "cosine"
    """`linear` betas of DDPM, the `cosine` of Improved DDPM, or `flow`: the straight lines of rectified flow."""
    steps: int = 1000
    """Number of steps from clean latents to noise, T. Rectified flow is also trained at times between them."""
    target: Target = "v"
    """What the denoiser predicts."""
    times: Literal["uniform", "logit-normal"] = "uniform"
    """Distribution of training times: `uniform`, or `logit-normal`, mostly in the middle, which is hardest (arXiv
    2403.03206)."""
    times_mean: float = 0.0
    """Mean of the logit of a `logit-normal` time; above 0, more times are noisy. If neighbouring latents are similar,
    little noise hides little, so that captions matter only under much noise."""
    min_snr: float = 0.0
    """Gamma of min-SNR weighting; 0 gives all times the same weight."""
    learned_variance: bool = False
    """Whether the denoiser also predicts the variance of a step back. Only `ddpm` sampling uses it."""

    def __post_init__(self) -> None:
        require(self, "steps", 2 <= self.steps <= 100_000, "from 2 to 100000")
        require(self, "times_mean", self.times == "logit-normal" or not self.times_mean, "0 with times uniform")
        require(self, "min_snr", self.min_snr >= 0, "0 (none) or more")
        flow = self.schedule == "flow"
        # x_T of a flow is only noise, so that predicting the noise there tells nothing about x_0
        require(self, "target", not (flow and self.target == "epsilon"), "x0, v or velocity with schedule flow")
        require(self, "learned_variance", not (flow and self.learned_variance), "false with schedule flow")


class Process:
    """The tables of a schedule, and the formulas that use them.

    Times t and s are (B,), or (1,) for all, from 0 (clean) to T (noise): integers; for a flow, any number. They are
    best left on the CPU: factors are computed there, in float64, which Apple's GPU does not have, and only then moved
    to the latents.
    """

    def __init__(self, config: ProcessConfig) -> None:
        self.config = config
        self.steps = config.steps
        self.alpha, self.sigma = _TABLES[config.schedule](config.steps)
        """alpha_t and sigma_t for t = 0..T, (T + 1,) float64 on the CPU each."""

    def at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t, (B, 1, 1, 1) float64 on the CPU, linearly interpolated between steps."""
        t = t.cpu()
        low = t.long().clamp_max(self.steps - 1)
        fraction = t.double() - low

        def look_up(table: Tensor) -> Tensor:
            return torch.lerp(table[low], table[low + 1], fraction).view(-1, 1, 1, 1)

        return look_up(self.alpha), look_up(self.sigma)

    def signal_to_noise(self, t: Tensor) -> Tensor:
        """alpha_t^2 / sigma_t^2, (B,) float64 on the CPU."""
        alpha, sigma = self.at(t)
        return (alpha / sigma).square().flatten()

    def sample_times(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Sample training times, (count,) float32: integers of 1..T; for a flow, any number in (0, T]."""
        if self.config.times == "uniform":
            fraction = 1 - torch.rand(count, generator=generator)
        else:  # arXiv 2403.03206 eq. 19 with s = 1
            fraction = torch.sigmoid(self.config.times_mean + torch.randn(count, generator=generator))
        times = self.steps * fraction
        return times if self.config.schedule == "flow" else times.ceil()

    def add_noise(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return a sample of q(x_t | x_0), (B, C, h, w): DDPM eq. 4 (rectified flow, arXiv 2209.03003, eq. 1)."""
        alpha, sigma = (as_of(x_0, factor) for factor in self.at(t))
        return alpha * x_0 + sigma * noise

    def posterior_mean(self, x_0: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """The mean of q(x_s | x_t, x_0), (B, C, h, w), for s < t. DDPM eq. 6 and 7 have s = t - 1."""
        (alpha_s, sigma_s), (_, sigma_t) = self.at(s), self.at(t)
        alpha, beta = self._between(s, t)
        weight_t = alpha * sigma_s.square() / sigma_t.square()
        weight_0 = alpha_s * beta / sigma_t.square()
        return as_of(x_0, weight_0) * x_0 + as_of(x_0, weight_t) * x_t

    def log_variance(self, s: Tensor, t: Tensor, v: Tensor | None = None) -> Tensor:
        """Log-variance of p(x_s | x_t), (B, 1, 1, 1) or (B, C, h, w) float64 on the CPU.

        Without `v`, it is the posterior's. A learned `v` (B, C, h, w) interpolates from there, at -1, to log beta, at 1
        (Improved DDPM, arXiv 2102.09672, eq. 15). At s = 0 the posterior has no variance; as in that paper's code, the
        variance of the step from 2 to 1 is used.
        """
        s, t = s.cpu(), t.cpu()
        s, t = torch.where(s < 1, 1.0, s.double()), torch.where(s < 1, t.clamp_min(2), t).double()
        beta = self._between(s, t)[1]
        lower = (beta * (self.at(s)[1] / self.at(t)[1]).square()).log()
        if v is None:
            return lower
        fraction = (v.cpu().double() + 1) / 2
        return fraction * beta.log() + (1 - fraction) * lower

    def target(self, x_0: Tensor, noise: Tensor, t: Tensor, kind: Target | None = None) -> Tensor:
        """What the denoiser must predict at x_t, (B, C, h, w). `kind` is by default the config's target."""
        alpha, sigma = (as_of(x_0, factor) for factor in self.at(t))
        match kind or self.config.target:
            case "epsilon":
                return noise  # DDPM section 3.2
            case "x0":
                return x_0
            case "v":
                return alpha * noise - sigma * x_0  # progressive distillation, arXiv 2202.00512, appendix D
            case "velocity":
                return noise - x_0  # rectified flow eq. 1, where time runs the other way

    def estimates(self, predicted: Tensor, x_t: Tensor, t: Tensor, kind: Target | None = None) -> tuple[Tensor, Tensor]:
        """Convert a predicted target at x_t into estimates of x_0 and of the noise, (B, C, h, w) each; t > 0."""
        alpha, sigma = (as_of(x_t, factor) for factor in self.at(t))
        match kind or self.config.target:
            case "epsilon":
                return (x_t - sigma * predicted) / alpha, predicted  # DDPM eq. 15
            case "x0":
                return predicted, (x_t - alpha * predicted) / sigma
            case "v":
                norm = alpha.square() + sigma.square()
                return (alpha * x_t - sigma * predicted) / norm, (sigma * x_t + alpha * predicted) / norm
            case "velocity":
                total = alpha + sigma
                return (x_t - sigma * predicted) / total, (x_t + alpha * predicted) / total

    def weight(self, t: Tensor) -> Tensor:
        """Weight of the squared error at time t, (B,): 1, or min(SNR, gamma) on x_0 (min-SNR, arXiv 2303.09556, eq. 7).

        An error of x_0 appears in the predicted target multiplied by a factor that depends on t. The weight divides by
        its square.
        """
        if not self.config.min_snr:
            return torch.ones_like(t)
        alpha, sigma = self.at(t)
        factor = {
            "epsilon": alpha / sigma, "x0": torch.ones_like(alpha),
            "v": (alpha.square() + sigma.square()) / sigma, "velocity": (alpha + sigma) / sigma,
        }[self.config.target]  # fmt: skip
        weight = self.signal_to_noise(t).clamp_max(self.config.min_snr) / factor.square().flatten()
        return as_of(t, weight)

    def _between(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Factor and variance of q(x_t | x_s) = N(factor x_s, variance). In DDPM eq. 2: sqrt(1 - beta_t) and beta_t."""
        (alpha_s, sigma_s), (alpha_t, sigma_t) = self.at(s), self.at(t)
        factor = alpha_t / alpha_s
        return factor, sigma_t.square() - factor.square() * sigma_s.square()


def as_of(like: Tensor, factor: Tensor) -> Tensor:
    """`factor` in the dtype of `like`, then on its device, in this order: a device may lack the dtype of `factor`.

    One factor for a whole batch, (1, 1, 1, 1), becomes a number on the CPU, which any device can multiply by. Copying
    it would stop a GPU.
    """
    factor = factor.to(like.dtype)
    return factor.view(()) if factor.shape == (1, 1, 1, 1) else factor.to(like.device)


def _from_betas(betas: Tensor) -> tuple[Tensor, Tensor]:
    """Betas (T,) -> alpha and sigma, (T + 1,) each."""
    alpha_bar = torch.cat([betas.new_ones(1), (1 - betas).cumprod(0)])
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


def _linear(steps: int) -> tuple[Tensor, Tensor]:
    """DDPM section 4, rescaled so that any number of steps ends in the same noise."""
    scale = 1000 / steps
    return _from_betas(torch.linspace(1e-4 * scale, 0.02 * scale, steps, dtype=torch.float64).clamp_max(0.999))


def _cosine(steps: int) -> tuple[Tensor, Tensor]:
    """Improved DDPM eq. 17, betas at most 0.999."""
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    alpha_bar = torch.cos((t + 0.008) / 1.008 * math.pi / 2).square()
    return _from_betas((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp_max(0.999))


def _flow(steps: int) -> tuple[Tensor, Tensor]:
    """Rectified flow: straight lines from data to noise."""
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return 1 - t, t


_TABLES = {"linear": _linear, "cosine": _cosine, "flow": _flow}
