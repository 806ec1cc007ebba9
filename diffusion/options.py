"""Config of the diffusion model's trainer."""

from dataclasses import dataclass, field
from typing import ClassVar

from diffusion.model import DiffusionModelConfig
from training.config import require
from training.options import TrainingConfig
from training.parts import Registry
from training.shipped import shipped_part
from training.task import TaskConfig

TASKS: Registry[type["DenoisingConfig"]] = Registry("diffusion-task")


@TASKS.register("denoising")
@dataclass(kw_only=True)
class DenoisingConfig(TaskConfig):
    """Remove noise from latents, given a caption."""

    registry: ClassVar = TASKS
    task: ClassVar = "diffusion.task.DiffusionTask"


@dataclass(kw_only=True)
class DiffusionTrainingConfig(TrainingConfig):
    """Trains the diffusion model on captions and the image tokenizer's latents."""

    presets: ClassVar = "diffusion"
    preset: ClassVar = "emoji"

    data: str = "emoji"
    """Stores of latents written by `python -m tokenizer.encode --latents true`. Or `emoji`, `scenes`, or your own
    pictures: a folder, a parquet or tar file, `labels:FOLDER`, or `hf://datasets/owner/name`. Several are joined by
    `+`. They are encoded into the run folder first."""
    out: str = "runs/diffusion"
    tokenizer: str = field(default_factory=lambda: shipped_part("tokenizer"))
    """Image tokenizer: the `model` folder of its run. By default that of the shipped bundle."""
    text: str = field(default_factory=lambda: shipped_part("text"))
    """Text tokenizer. By default that of the shipped bundle."""
    limit: int | None = None
    """Train on at most this many pictures, where pictures are encoded."""
    strict: bool = False
    """Stop at an unreadable picture. Otherwise it is skipped and listed."""
    views: int = 4
    """Views of each training picture, where pictures are encoded: the picture itself, and small shifts and zooms of it.
    """
    caption_dropout: float = 0.1
    """Share of captions replaced by the null caption, which classifier-free guidance needs."""
    model: DiffusionModelConfig = field(default_factory=DiffusionModelConfig)
    """Shape of the model."""
    task: DenoisingConfig = field(default_factory=DenoisingConfig)
    """What the model learns to do."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tokenizer", "text"):
            require(self, name, bool(getattr(self, name)), "a folder; there is no shipped bundle here to take it from")
        require(self, "views", self.views >= 1, "1 or more")
        require(self, "caption_dropout", 0 <= self.caption_dropout < 1, "from 0 to below 1")
