"""Config of the image tokenizer's trainer."""

from dataclasses import dataclass, field

from tokenizer.image_tokenizer import ImageTokenizerConfig
from tokenizer.losses import LossConfig
from training.options import TrainingConfig


@dataclass(kw_only=True)
class TokenizerTrainingConfig(TrainingConfig):
    """Trains the image tokenizer on pictures; captions are not used."""

    data: str = "emoji"
    """`emoji`, or a folder or parquet file of your own pictures."""
    limit: int | None = None
    """Train on only this many pictures."""
    strict: bool = False
    """Stop at an unreadable picture; otherwise it is skipped and listed."""
    model: ImageTokenizerConfig = field(default_factory=ImageTokenizerConfig)
    """Shape of the model."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Weights of the loss terms."""
