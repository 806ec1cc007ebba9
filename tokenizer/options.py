"""Config of the image tokenizer's trainer."""

from dataclasses import dataclass, field
from typing import ClassVar

from tokenizer.image_tokenizer import ImageTokenizerConfig
from tokenizer.losses import ReconstructionConfig
from training.config import require
from training.options import TrainingConfig


@dataclass(kw_only=True)
class TokenizerTrainingConfig(TrainingConfig):
    """Trains the image tokenizer on pictures; captions are not used."""

    presets: ClassVar = "tokenizer"
    preset: ClassVar = "emoji"

    data: str = "emoji"
    """`emoji`, `scenes`, or your own pictures: a folder, a parquet or tar file, `labels:FOLDER`, or
    `hf://datasets/owner/name`. Several are joined by `+`."""
    out: str = "runs/tokenizer"
    limit: int | None = None
    """Train on at most this many pictures."""
    strict: bool = False
    """Stop at an unreadable picture. Otherwise it is skipped and listed."""
    decoder_only: bool = False
    """Train only the decoder, which may have another shape than that of `init`. Encoder and codebook stay those of
    `init`, so models that draw its codes can use both (the second stage of Parti, arXiv 2206.10789, section 2.1)."""
    model: ImageTokenizerConfig = field(default_factory=ImageTokenizerConfig)
    """Shape of the model."""
    task: ReconstructionConfig = field(default_factory=ReconstructionConfig)
    """What the model learns to do."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "decoder_only", not self.decoder_only or self.init is not None, "false without init")
        aligned = self.decoder_only and self.task.alignment > 0  # the encoder, which stays as it is
        require(self.task, "alignment", not aligned, "0 with decoder_only")
