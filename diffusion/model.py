"""The diffusion model: noisy latents, time and caption -> the target of the noise process.

Dimension names: B batch, S caption ids, C channels of a latent, h and w rows and columns of latents, D width.
"""

import copy
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from diffusion.condition import CaptionCache
from diffusion.dit import DiT, DiTConfig
from diffusion.process import Process, ProcessConfig
from diffusion.text import CaptionEncoder, TextConfig
from diffusion.unet import UNet, UNetConfig
from training.config import MAX_WIDTH, options_of, require, require_sizes
from training.pretrained import PretrainedModel


@dataclass(kw_only=True)
class DiffusionModelConfig:
    """Shape of the diffusion model."""

    denoiser: Literal["dit", "unet"] = "dit"
    """`dit`, a diffusion transformer, or `unet`, a U-Net."""
    width: int = 256
    """Width of the transformer, and of the caption states that either denoiser attends to."""
    dit: DiTConfig = field(default_factory=DiTConfig)
    """Shape of the transformer, for denoiser `dit`."""
    unet: UNetConfig = field(default_factory=UNetConfig)
    """Shape of the U-Net, for denoiser `unet`."""
    text: TextConfig = field(default_factory=TextConfig)
    """The text encoder."""
    process: ProcessConfig = field(default_factory=ProcessConfig)
    """The noise process, and what the denoiser predicts."""
    channels: int = 16
    """Channels of the image tokenizer's latents, C. The trainer sets it."""
    grid: int = 8
    """Latents in a row, and rows in a picture. The trainer sets it."""
    latent_bound: float = 3.0
    """Magnitude that 99.5 % of true latents do not exceed, for dynamic thresholding. The trainer sets it."""
    latents_id: str = ""
    """Id of the latents that the model denoises, of the image tokenizer. The trainer sets it."""
    text_id: str = ""
    """Id of the text tokenizer whose ids the model reads; empty with kind `transformers`. The trainer sets it."""

    def __post_init__(self) -> None:
        require_sizes(self, width=MAX_WIDTH, channels=MAX_WIDTH, grid=1024)
        require(self, "width", self.width % self.dit.heads == 0, f"a multiple of dit.heads {self.dit.heads}")
        require(self, "latent_bound", self.latent_bound > 0, "greater than 0")

    @property
    def text_vocab_size(self) -> int:
        """Number of ids of the text tokenizer."""
        return self.text.vocab_size

    @property
    def text_length(self) -> int:
        """Largest number of ids in a caption."""
        return self.text.length


class DiffusionModel(PretrainedModel):
    """Text encoder and denoiser."""

    config_class = DiffusionModelConfig
    config: DiffusionModelConfig

    def __init__(self, config: DiffusionModelConfig) -> None:
        super().__init__()
        c = self.config = config
        self.process = Process(c.process)
        self.text = CaptionEncoder(c.text)
        self.project = nn.Linear(c.text.width, c.width, bias=False) if c.text.width != c.width else nn.Identity()
        out_channels = c.channels * (2 if c.process.learned_variance else 1)
        self.denoiser: DiT | UNet = (
            DiT(c.dit, c.width, c.channels, out_channels, c.grid)
            if c.denoiser == "dit"
            else UNet(c.unet, c.width, c.channels, out_channels, c.grid)
        )

    @property
    def training_only(self) -> set[str]:
        """As in the base class; and all options of the denoiser that is not used."""
        c = self.config
        unused, its = ("unet", c.unet) if c.denoiser == "dit" else ("dit", c.dit)
        return {
            "dit.dropout", "dit.recompute", "unet.dropout", "text.dropout", "process.times", "process.times_mean",
            "process.min_snr", *(f"{unused}.{name}" for name in options_of(type(its))),
        }  # fmt: skip

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        return self.config.channels, self.config.grid, self.config.grid

    def forward(self, x: Tensor, t: Tensor, text: Tensor | CaptionCache) -> Tensor:
        """Predict the target of the noise process.

        Args:
            x: noisy latents (B, C, h, w).
            t: their times, (B,) or (1,) for all, from 0 to the process's T.
            text: caption ids (B, S) int64 from `diffusion.text.caption_ids`; or a `CaptionCache` of them, which
                several passes read only once.

        Returns:
            (B, C, h, w) float32; with learned variance (B, 2 C, h, w), where the second half is v of
            `Process.log_variance`, about [-1, 1], not clamped.
        """
        caption = text if isinstance(text, CaptionCache) else CaptionCache(text)
        states, dtype = None, next(self.denoiser.parameters()).dtype
        if caption.text is not None:
            states, mask = self.text(caption.text)
            states, caption.mask, caption.text = self.project(states), mask[:, None, None], None
        return self.denoiser(x.to(dtype), t / self.process.steps, states, caption).float()

    def with_denoiser(self, denoiser: nn.Module) -> "DiffusionModel":
        """Return a copy with another denoiser. They share all other weights."""
        twin = copy.copy(self)
        twin._modules = {**self._modules, "denoiser": denoiser}
        return twin
