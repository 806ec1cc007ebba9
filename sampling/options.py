"""What a sampler can be told."""

from dataclasses import dataclass

from training.config import require


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How tokens are drawn from the model's logits."""

    guidance: float = 2.0
    """Scale of classifier-free guidance; 1 is none, larger follows the prompt more closely."""
    temperature: float = 0.6
    """Sharpness of the draw; 0 always takes the most likely token, 1 draws from the model as it is."""
    top_k: int = 0
    """Draw only from this many most likely tokens; 0 from all."""
    top_p: float = 1.0
    """Draw only from the most likely tokens that together reach this probability; 1 from all."""

    def __post_init__(self) -> None:
        require(self, "guidance", 0 <= self.guidance <= 100, "from 0 to 100")
        require(self, "temperature", 0 <= self.temperature <= 100, "from 0 to 100")
        require(self, "top_k", self.top_k >= 0, "0 or more")
        require(self, "top_p", 0 < self.top_p <= 1, "greater than 0, at most 1")
