"""Config of the upsampler's trainer."""

from dataclasses import dataclass, field
from typing import ClassVar

from tokenizer.upsampler import UpsamplerConfig
from training.config import require
from training.options import TrainingConfig
from training.shipped import shipped_part


@dataclass(kw_only=True)
class UpsamplerTrainingConfig(TrainingConfig):
    """Trains the upsampler to make large pictures of the image tokenizer's reconstructions of small ones."""

    presets: ClassVar = "upsampler"
    preset: ClassVar = "emoji"

    data: str = "emoji"
    """`emoji`, `scenes`, or your own pictures: a folder, a parquet or tar file, `labels:FOLDER`, or
    `hf://datasets/owner/name`. Several are joined by `+`."""
    out: str = "runs/upsampler"
    tokenizer: str = field(default_factory=lambda: shipped_part("tokenizer"))
    """Image tokenizer: the `model` folder of its run. By default that of the shipped bundle. With `reconstructed` 0 and
    an `image_size`, none is needed."""
    image_size: int | None = None
    """Height and width of the small pictures in pixels. By default those of the image tokenizer."""
    reconstructed: float = 1.0
    """Share of the small pictures that are reconstructions by the image tokenizer. The others are clean: the large
    picture, reduced. With 0, all are."""
    limit: int | None = None
    """Train on at most this many pictures."""
    strict: bool = False
    """Stop at an unreadable picture. Otherwise it is skipped and listed."""
    perceptual: float = 0.1
    """Weight of the distance between features of the frozen network, beside the mean absolute error of pixels, whose
    weight is 1. With 0, the network is not used."""
    perceptual_size: int = 256
    """Size of pictures for the feature network, in pixels: that of the large pictures, to judge all their detail."""
    model: UpsamplerConfig = field(default_factory=UpsamplerConfig, metadata={"short": True})
    """Shape of the model. Its options may be given without `model.`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "reconstructed", 0 <= self.reconstructed <= 1, "from 0 to 1")
        require(self, "image_size", self.image_size is None or self.image_size >= 1, "1 or more")
        require(self, "perceptual", self.perceptual >= 0, "0 or more")
        size = self.perceptual_size
        require(self, "perceptual_size", size >= 32 and size % 32 == 0, "a multiple of 32, the network's stride")
        given = bool(self.tokenizer) or not self.needs_tokenizer
        require(self, "tokenizer", given, "a folder; there is no shipped bundle here to take it from")

    @property
    def needs_tokenizer(self) -> bool:
        """Whether the image tokenizer makes small pictures, or says how large they are."""
        return self.reconstructed > 0 or self.image_size is None
