"""The options of each backend: one frozen dataclass for the token model, one for the diffusion model.

Each class checks its fields when it is built and raises `BadInput` for a value out of range. The field docstrings are
the help texts of the command line.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from training.config import require, to_dict
from training.parts import Registry, Tagged

BACKENDS: Registry[type["BackendOptions"]] = Registry("backend")
"""The options class of each backend, by name. `sampling.backend.backend` adds to it."""


@dataclass(frozen=True, kw_only=True)
class BackendOptions(Tagged):
    """Which backend draws, and the options that all backends share."""

    registry: ClassVar = BACKENDS
    backend_class: ClassVar[Any]
    """The `Backend` that takes these options."""

    guidance: float = 2.0
    """Scale of classifier-free guidance. A larger scale follows the prompt more closely. 1 turns it off, which halves
    the work."""
    guidance_from: float = 0.0
    """Fraction of the drawing at which guidance starts: of the picture's tokens, or for diffusion of the noise process,
    that is, of its steps. What is drawn before has no guidance."""
    guidance_until: float = 1.0
    """Fraction of the drawing at which guidance ends. What is drawn after it has no guidance, which is half as much
    to compute; for diffusion also what is drawn before it starts (arXiv 2404.07724)."""

    @property
    def settings(self) -> dict[str, Any]:
        """All options as JSON values. With prompt, seed and model they determine a picture."""
        return {name: value for name, value in to_dict(self).items() if name != "kind"}

    def __post_init__(self) -> None:
        require(self, "guidance", 0 <= self.guidance <= 100, "from 0 to 100")
        require(self, "guidance_from", 0 <= self.guidance_from <= 1, "from 0 to 1")
        require(
            self, "guidance_until", self.guidance_from <= self.guidance_until <= 1,
            f"from guidance_from {self.guidance_from} to 1",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(BackendOptions):
    """How tokens are drawn from the token model's logits."""

    temperature: float = 0.3
    """Divides the logits. 0 always takes the most likely token; 1 draws from the model's own distribution."""
    top_k: int = 0
    """Draw only from this many most likely tokens; 0 draws from all."""
    top_p: float = 1.0
    """Draw only from the most likely tokens whose probabilities together reach this value; 1 draws from all."""
    min_p: float = 0.0
    """Draw only from tokens whose probability is at least this fraction of the highest one; 0 draws from all."""
    guidance_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How guidance changes from the first guided token to the last: it stays constant, or grows from 1 linearly or
    along half a cosine."""
    parallel: int | None = None
    """Guess a window of this many tokens and draw all of them in each pass, until the guesses are right; 0 draws one
    token a pass. It changes how long a picture takes, not the picture. By default 8 for up to 4 pictures at a time
    on a CPU, where that is faster, and 0 otherwise."""
    best_of: int = 1
    """Draw this many candidates for each picture and keep the best one."""
    scorer: str = ""
    """What decides which candidate is best: a CLIP of `transformers`, a folder or `hf://owner/name`, which scores how
    well picture and caption agree. By default the token model's own likelihood of the picture given its caption."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "temperature", 0 <= self.temperature <= 100, "from 0 to 100")
        require(self, "top_k", 0 <= self.top_k < 2**31, "from 0 to below 2**31")
        require(self, "top_p", 0 < self.top_p <= 1, "greater than 0, at most 1")
        require(self, "min_p", 0 <= self.min_p <= 1, "from 0 to 1")
        require(self, "parallel", self.parallel in (None, 0) or self.parallel >= 2, "2 or more, or 0 for none")
        require(self, "best_of", 1 <= self.best_of <= 1024, "from 1 to 1024")
        require(self, "scorer", not self.scorer or self.best_of > 1, "absent unless best_of is 2 or more")

    def guidance_scales(self, length: int) -> list[float]:
        """The guidance scale of each of `length` tokens; 1 where a token is not guided."""
        first, end = round(self.guidance_from * length), round(self.guidance_until * length)
        last_step = max(1, end - first - 1)
        return [self._guidance_at((t - first) / last_step) if first <= t < end else 1.0 for t in range(length)]

    def guided_length(self, length: int) -> int:
        """How many of `length` tokens are drawn before guidance is off for the rest of the picture."""
        return max((t + 1 for t, scale in enumerate(self.guidance_scales(length)) if scale != 1), default=0)

    def _guidance_at(self, progress: float) -> float:
        """The scale at `progress`, from 0 at the first guided token to 1 at the last."""
        growth = {"constant": 1.0, "linear": progress, "cosine": (1 - math.cos(math.pi * progress)) / 2}
        return 1 + (self.guidance - 1) * growth[self.guidance_schedule]


@dataclass(frozen=True, kw_only=True)
class DiffusionOptions(BackendOptions):
    """How the diffusion model denoises latents."""

    steps: int = 25
    """Denoising steps. `heun` runs the model twice a step."""
    scheduler: Literal["dpm", "ddim", "ddpm", "euler", "heun"] = "dpm"
    """The solver of a step. `ddim` needs a model that was trained on a linear or cosine schedule; `euler` and `heun`
    need one that was trained on rectified flow; the others take any."""
    eta: float = 0.0
    """Noise that each `ddim` step adds: 0 adds none, 1 as much as `ddpm`."""
    threshold: float = 0.0
    """Quantile of dynamic thresholding, such as 0.995: estimates whose magnitudes exceed it are clipped and rescaled. 0
    turns it off."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "steps", 1 <= self.steps <= 10_000, "from 1 to 10000")
        require(self, "eta", 0 <= self.eta <= 1, "from 0 to 1")
        require(self, "eta", self.eta == 0 or self.scheduler == "ddim", f"0 with scheduler {self.scheduler}")
        require(self, "threshold", 0 <= self.threshold < 1, "from 0 (none) to below 1")

    def guides_at(self, noise: float) -> bool:
        """Whether there is guidance at a time of the noise process, from 1 (noise) to 0 (clean)."""
        drawn = 1 - noise + 1e-6  # times are float32, and 1 - 0.9 is not 0.1
        return self.guidance != 1 and self.guidance_from <= drawn < self.guidance_until
