"""What a sampler can be told."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from training.config import require, to_dict
from training.parts import Registry, Tagged

BACKENDS: Registry[type["BackendOptions"]] = Registry("backend")
"""The options of each way of drawing (`sampling.backend`)."""


@dataclass(frozen=True, kw_only=True)
class BackendOptions(Tagged):
    """What draws, and what every backend can be told."""

    registry: ClassVar = BACKENDS
    drawn_by: ClassVar[Any]
    """The `Backend` whose options they are."""

    guidance: float = 1.0
    """Scale of classifier-free guidance; 1 is none, larger follows the prompt more closely. The defaults are what the
    shipped weights draw best with: 1 for the token model, which it makes twice as fast, and 2 for diffusion."""

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides a picture besides prompt, seed and model, as JSON has it."""
        return {name: value for name, value in to_dict(self).items() if name != "kind"}

    def __post_init__(self) -> None:
        require(self, "guidance", 0 <= self.guidance <= 100, "from 0 to 100")


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(BackendOptions):
    """How tokens are drawn from the model's logits."""

    temperature: float = 0.3
    """Sharpness of the draw; 0 always takes the most likely token, 1 draws from the model as it is."""
    top_k: int = 0
    """Draw only from this many most likely tokens; 0 from all."""
    top_p: float = 1.0
    """Draw only from the most likely tokens that together reach this probability; 1 from all."""
    min_p: float = 0.0
    """Draw only from tokens at least this share as likely as the likeliest; 0 from all."""
    guidance_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How guidance goes from the first guided token to the last: stays, or grows from 1 on a line or half a cosine."""
    guidance_from: float = 0.0
    """Tokens before this share of the picture are drawn without guidance."""
    guidance_until: float = 1.0
    """So are those from this share on, and at half the cost."""
    parallel: int | None = None
    """Guess a window of this many tokens and draw all of it in each pass, until the guesses are right; 0 draws one
    token a pass. It changes how long a picture takes, not the picture. By default 8 for one picture at a time on a
    CPU, where that is faster, and 0 elsewhere."""
    best_of: int = 1
    """Draw this many candidates and keep the best by `scorer`."""
    scorer: str = ""
    """What is best: the picture that agrees most with its caption by this CLIP of `transformers`, a folder or
    `hf://owner/name`; by default the one that is likeliest for its caption, by the model itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "temperature", 0 <= self.temperature <= 100, "from 0 to 100")
        require(self, "top_k", self.top_k >= 0, "0 or more")
        require(self, "top_p", 0 < self.top_p <= 1, "greater than 0, at most 1")
        require(self, "min_p", 0 <= self.min_p <= 1, "from 0 to 1")
        require(self, "parallel", self.parallel in (None, 0) or self.parallel >= 2, "2 or more, or 0 for none")
        require(self, "best_of", 1 <= self.best_of <= 1024, "from 1 to 1024")
        require(self, "scorer", not self.scorer or self.best_of > 1, "absent unless best_of is 2 or more")
        require(self, "guidance_from", 0 <= self.guidance_from <= 1, "from 0 to 1")
        require(
            self, "guidance_until", self.guidance_from <= self.guidance_until <= 1,
            f"from guidance_from {self.guidance_from} to 1",
        )  # fmt: skip

    def scales(self, length: int) -> list[float]:
        """The guidance scale of each of `length` tokens."""
        start, end = (round(share * length) for share in (self.guidance_from, self.guidance_until))
        return [self._scale((t - start) / max(1, end - start - 1)) if start <= t < end else 1.0 for t in range(length)]

    def _scale(self, progress: float) -> float:
        """At `progress` from 0 to 1 through what is guided."""
        grown = {"constant": 1.0, "linear": progress, "cosine": (1 - math.cos(math.pi * progress)) / 2}
        return 1 + (self.guidance - 1) * grown[self.guidance_schedule]

    def guided_until(self, length: int) -> int:
        """The first of `length` tokens from which on guidance is off for good."""
        return max((t + 1 for t, scale in enumerate(self.scales(length)) if scale != 1), default=0)


@dataclass(frozen=True, kw_only=True)
class DiffusionOptions(BackendOptions):
    """How latents are drawn from the denoiser."""

    guidance: float = 2.0
    """As of every backend."""
    steps: int = 25
    """Steps from noise to picture. `heun` looks twice a step."""
    scheduler: Literal["dpm", "ddim", "ddpm", "euler", "heun"] = "dpm"
    """How a step is taken: `ddim` only where the model was trained on a linear or cosine schedule, `euler` and `heun`
    only where on rectified flow, the others anywhere."""
    eta: float = 0.0
    """Noise of a `ddim` step: none at 0, that of `ddpm` at 1."""
    threshold: float = 0.0
    """Dynamic thresholding: larger estimates than this quantile (0.995, say) are cut and rescaled; 0 leaves them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "steps", 1 <= self.steps <= 10_000, "from 1 to 10000")
        require(self, "eta", 0 <= self.eta <= 1, "from 0 to 1")
        require(self, "eta", self.eta == 0 or self.scheduler == "ddim", f"0 with scheduler {self.scheduler}")
        require(self, "threshold", 0 <= self.threshold < 1, "from 0 (none) to below 1")
