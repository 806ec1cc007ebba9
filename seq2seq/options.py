"""Config of the token model's trainer."""

from dataclasses import dataclass, field
from typing import ClassVar

from seq2seq.model import TokenModelConfig
from training.config import require
from training.options import TrainingConfig
from training.parts import Registry
from training.shipped import shipped_part
from training.task import TaskConfig

TASKS: Registry[type["LikelihoodConfig"]] = Registry("token-task")


@TASKS.register("likelihood")
@dataclass(kw_only=True)
class LikelihoodConfig(TaskConfig):
    """Maximise the likelihood of a picture's tokens, given its caption."""

    registry: ClassVar = TASKS
    task: ClassVar = "seq2seq.task.TokenTask"


@dataclass(kw_only=True)
class TokenTrainingConfig(TrainingConfig):
    """Trains the token model on captions and image codes."""

    presets: ClassVar = "seq2seq"
    preset: ClassVar = "emoji"

    data: str
    """Stores of codes written by `python -m tokenizer.encode`. Or `emoji`, `scenes`, or your own pictures: a folder, a
    parquet or tar file, `labels:FOLDER`, or `hf://datasets/owner/name`. Several are joined by `+`. They are encoded
    into the run folder first."""
    out: str = "runs/seq2seq"
    tokenizer: str = field(default_factory=lambda: shipped_part("tokenizer"))
    """Image tokenizer: the `model` folder of its run. By default that of the shipped bundle."""
    text: str = field(default_factory=lambda: shipped_part("text"))
    """Text tokenizer. By default that of the shipped bundle."""
    strict: bool = False
    """Stop at an unreadable picture. Otherwise it is skipped and listed."""
    views: int = 4
    """Views of each training picture, where pictures are encoded: the picture itself, and small shifts and zooms of it.
    """
    caption_dropout: float = 0.1
    """Share of captions replaced by the null caption, which classifier-free guidance needs."""
    token_dropout: float = 0.0
    """Largest share of a picture's tokens to hide from the decoder in training; the share is random, from 0 to this.
    With few training pictures, a few tokens tell a decoder which picture it is, and it learns to ignore the caption."""
    model: TokenModelConfig = field(default_factory=TokenModelConfig)
    """Shape of the model."""
    task: LikelihoodConfig = field(default_factory=LikelihoodConfig)
    """What the model learns to do."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tokenizer", "text"):
            require(self, name, bool(getattr(self, name)), "a folder; there is no shipped bundle here to take it from")
        require(self, "views", self.views >= 1, "1 or more")
        require(self, "caption_dropout", 0 <= self.caption_dropout < 1, "from 0 to below 1")
        require(self, "token_dropout", 0 <= self.token_dropout <= 1, "from 0 to 1")
