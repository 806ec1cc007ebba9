"""What every trainer can be told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from training.config import require


@dataclass(kw_only=True)
class OptimizerConfig:
    """AdamW, and Muon where it is asked for, with a linear warm-up and a cosine decay."""

    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    muon_learning_rate: float = 0.0
    """Peak learning rate of Muon, 0.02 say, for the matrices inside a transformer's blocks; 0 leaves them to AdamW. It
    takes far fewer steps, each somewhat longer."""
    warmup: int = 200
    """Steps of linear warm-up."""
    floor: float = 0.02
    """Learning rate at the last step, as a share of the peak."""
    beta1: float = 0.9
    """Decay of the gradient's mean."""
    beta2: float = 0.99
    """Decay of the gradient's square."""
    weight_decay: float = 0.02
    """Decoupled weight decay; matrices only, not biases, norms and embeddings of one dimension."""
    clip: float = 1.0
    """Largest norm of the gradient; a larger one is scaled down to it."""

    def __post_init__(self) -> None:
        require(self, "learning_rate", self.learning_rate > 0, "greater than 0")
        require(self, "muon_learning_rate", self.muon_learning_rate >= 0, "0 or more")
        require(self, "warmup", self.warmup >= 0, "0 or more")
        require(self, "floor", 0 <= self.floor <= 1, "from 0 to 1")
        require(self, "beta1", 0 <= self.beta1 < 1, "from 0 to below 1")
        require(self, "beta2", 0 <= self.beta2 < 1, "from 0 to below 1")
        require(self, "weight_decay", self.weight_decay >= 0, "0 or more")
        require(self, "clip", self.clip > 0, "greater than 0")


@dataclass(kw_only=True)
class TrainingConfig:
    """What the three trainers have in common."""

    data: str
    """What to train on."""
    out: str
    """Run folder: config, log, checkpoints, samples, and at the end the model. Give it again to resume."""
    steps: int
    """Optimizer steps in all."""
    init: Path | None = None
    """Model to start from, the `model` folder of another run; by default random weights. It must have the same shape
    and speak the same ids."""
    seed: int = 0
    """Fixes the initial weights, the order of the data, dropout and augmentation."""
    dry_run: bool = False
    """Print the resolved config, the model's size and the first batch's shapes, then stop."""
    batch_size: int = 64
    """Pictures an optimizer step, over all processes and accumulation."""
    accumulation: int = 1
    """Forward passes an optimizer step; more of them need less memory."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimizer."""
    ema_decay: float = 0.999
    """Decay of the averaged weights, which are the ones exported."""
    precision: Literal["auto", "no", "bf16"] = "auto"
    """Autocast of the forward pass; `auto` is bf16 where the hardware computes in it, and none elsewhere. A run may go
    on in another one, as where it moves to another machine; the log says from which step on."""
    log_every: int = 20
    """Steps between log lines."""
    sample_every: int = 500
    """Steps between sample pictures; 0 draws none."""
    checkpoint_every: int = 250
    """Steps between checkpoints."""
    workers: int = 0
    """Processes that prepare batches; 0 prepares them in the trainer."""
    cache: Path | None = None
    """Folder for prepared pictures; by default the user's cache folder."""
    verify: bool = False
    """Read everything that is trained on first, and stop where it is not as it was written."""
    trackers: list[str] = field(default_factory=list, metadata={"repeat": True})
    """Where the log is sent besides `log.jsonl`: `tensorboard`, `wandb`, or whatever else Accelerate knows and is
    installed. May be repeated."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "log_every", "checkpoint_every"):
            require(self, name, getattr(self, name) >= 1, "1 or more")
        for name in ("sample_every", "workers"):
            require(self, name, getattr(self, name) >= 0, "0 or more")
        require(self, "ema_decay", 0 <= self.ema_decay < 1, "from 0 to below 1")
        require(self, "seed", 0 <= self.seed < 2**31, "from 0 to 2147483647")
