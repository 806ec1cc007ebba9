"""Solvers, which take the steps from noise to clean latents: those of `diffusers`, and DDPM's own.

The schedulers of `diffusers` define a process of 1,000 steps and then skip most of them, each by other rules. Here each
gets a process that has exactly the steps to take (respacing, Improved DDPM, arXiv 2102.09672, section 4). Each gets
estimates of x_0, whatever the denoiser predicts.

Dimension names: B batch, C channels, h and w rows and columns of latents.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from diffusion.process import Process, as_of
from sampling.options import DiffusionOptions
from training.errors import BadInput, needing

Noise = Callable[[int], Tensor]
"""Takes the index of a step, returns its standard normal noise (B, C, h, w). Step 0 is the start of sampling."""


class Estimate(NamedTuple):
    """What a denoiser predicts from x_t."""

    x_0: Tensor
    """(B, C, h, w)."""
    share: Tensor | None = None
    """Where the variance of a step lies between its bounds, if the model learned that (`Process.log_variance`)."""


class Solver(Protocol):
    """Takes steps from noise to x_0, given an estimate of x_0 at each of its times."""

    times: list[float]
    """The time of each call of `step`, decreasing, at most T."""

    def step(self, call: int, x: Tensor, estimate: Estimate, noise: Noise) -> Tensor:
        """Step from x (B, C, h, w) at `times[call]` to x at the next time; the last call returns x_0."""


def solver_for(process: Process, options: DiffusionOptions, strength: float = 1.0) -> Solver:
    """The solver that `options` name, starting at time `strength` * T.

    Raises `BadInput` for a scheduler that does not fit the schedule of `process`, and for too many steps.
    """
    flow = process.config.schedule == "flow"
    times = _times(process, options.steps, strength)
    match options.scheduler:
        case "ddpm":
            return Ancestral(process, times)
        case "ddim" if not flow:
            return DDIM(process, times, "DDIMScheduler", eta=options.eta)
        case "dpm" if not flow:
            return VariancePreserving(process, times, "DPMSolverMultistepScheduler")
        case "dpm":
            return FlowDPM(process, times)
        case "euler" if flow:
            return FlowODE(process, times, "FlowMatchEulerDiscreteScheduler")
        case "heun" if flow:
            return FlowODE(process, times, "FlowMatchHeunDiscreteScheduler")
    fitting = "dpm, euler, heun or ddpm" if flow else "dpm, ddim or ddpm"
    raise BadInput(
        f"scheduler {options.scheduler} does not go with a model of schedule {process.config.schedule}: take {fitting}"
    )


def for_all(time: float) -> Tensor:
    """One time for a whole batch: (1,) float32 on the CPU, where `Process` computes."""
    return torch.full((1,), time)


class Ancestral:
    """Ancestral sampling, DDPM algorithm 2. That of `diffusers` cannot take noise from outside."""

    def __init__(self, process: Process, times: list[float]) -> None:
        self.process, self.times = process, times

    def step(self, call: int, x: Tensor, estimate: Estimate, noise: Noise) -> Tensor:
        """A sample of p(x_s | x_t), line 4 of the algorithm."""
        t, s = (for_all(time) for time in (*self.times, 0.0)[call : call + 2])
        mean = self.process.posterior_mean(estimate.x_0, x, s, t)
        if call + 1 == len(self.times):
            return mean
        log_variance = self.process.log_variance(s, t, estimate.share)
        return mean + as_of(x, (0.5 * log_variance).exp()) * noise(call + 1)


class VariancePreserving:
    """A scheduler of `diffusers` for x_t = alpha_t x_0 + sigma_t noise with alpha^2 + sigma^2 = 1."""

    def __init__(self, process: Process, times: list[float], name: str, **step: float) -> None:
        self.times = times
        alpha_bar = process.alpha[torch.tensor(times[::-1]).long()].square()
        before = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
        options: dict[str, Any] = {"clip_sample": False} if name == "DDIMScheduler" else {}
        self._scheduler = _diffusers(name)(
            num_train_timesteps=len(times), trained_betas=(1 - alpha_bar / before).tolist(), prediction_type="sample",
            timestep_spacing="trailing", **options,
        )  # fmt: skip
        self._scheduler.alphas_cumprod = alpha_bar  # exact; the scheduler's own product of float32 betas is not
        self._scheduler.set_timesteps(len(times))
        self._step = step

    def step(self, call: int, x: Tensor, estimate: Estimate, noise: Noise) -> Tensor:
        """A step of the scheduler."""
        timestep = int(self._scheduler.timesteps[call])
        options: dict[str, Any] = dict(self._step)
        if self._step.get("eta"):
            options["variance_noise"] = noise(call + 1)
        return self._scheduler.step(estimate.x_0, timestep, x, **options).prev_sample


class DDIM(VariancePreserving):
    """DDIM (arXiv 2010.02502), on the CPU: the scheduler's factors are float64, which Apple's GPU does not have."""

    def step(self, call: int, x: Tensor, estimate: Estimate, noise: Noise) -> Tensor:
        """A step of the scheduler."""
        x_0 = Estimate(estimate.x_0.cpu())
        return super().step(call, x.cpu(), x_0, lambda number: noise(number).cpu()).to(x.device)


class FlowDPM:
    """DPM-Solver++ of `diffusers` (2M, arXiv 2211.01095) for rectified flow."""

    def __init__(self, process: Process, times: list[float]) -> None:
        # it computes log(alpha / sigma), so it has to begin a little below T, where alpha is not 0
        self.times = [min(times[0], 0.999 * process.steps), *times[1:]]
        self._scheduler = _diffusers("DPMSolverMultistepScheduler")(use_flow_sigmas=True, prediction_type="sample")
        self._scheduler.set_timesteps(len(times))
        self._scheduler.sigmas = torch.tensor([*self.times, 0.0]) / process.steps
        self._scheduler.set_begin_index(0)

    def step(self, call: int, x: Tensor, estimate: Estimate, noise: Noise) -> Tensor:
        """A step of the scheduler."""
        return self._scheduler.step(estimate.x_0, self._scheduler.timesteps[call], x).prev_sample


class FlowODE:
    """Euler's or Heun's scheduler of `diffusers` for rectified flow. Heun's needs two estimates a step."""

    def __init__(self, process: Process, times: list[float], name: str) -> None:
        steps, start = len(times), times[0] / process.steps
        self._scheduler = _diffusers(name)(num_train_timesteps=steps)
        self._scheduler.sigma_max, self._scheduler.sigma_min = start, start / steps
        self._scheduler.set_timesteps(steps)
        self._scheduler.set_begin_index(0)
        self._sigmas = (self._scheduler.timesteps / steps).tolist()
        self.times = [sigma * process.steps for sigma in self._sigmas]

    def step(self, call: int, x: Tensor, estimate: Estimate, noise: Noise) -> Tensor:
        """A step of the scheduler, which takes the velocity."""
        velocity = (x - estimate.x_0) / self._sigmas[call]
        return self._scheduler.step(velocity, self._scheduler.timesteps[call], x).prev_sample


def _times(process: Process, steps: int, strength: float) -> list[float]:
    """`steps` evenly spaced times, from `strength` * T down to one step above 0; whole ones unless it is a flow."""
    end = strength * process.steps
    times = [end * k / steps for k in range(steps, 0, -1)]
    if process.config.schedule == "flow":
        return times
    whole = [float(round(time)) for time in times]
    if len({*whole, 0.0}) <= steps:
        raise BadInput(f"steps is {steps}: must be at most {int(end)}, the steps that the model was trained with there")
    return whole


def _diffusers(name: str) -> Any:
    """A class of `diffusers`. Raises `BadInput` if it is not installed."""
    with needing("diffusion"):
        import diffusers
    return getattr(diffusers, name)
