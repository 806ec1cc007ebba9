"""The options that all trainers share."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from training.config import require


@dataclass(kw_only=True)
class OptimizerConfig:
    """AdamW, alone or beside Muon, with a linear warm-up and a cosine decay."""

    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    muon_learning_rate: float = 0.0
    """Peak learning rate of Muon, for linear layers and convolutions inside blocks; 0.01 to 0.02 is a good start. With
    0, AdamW trains them too. Muon needs far fewer steps, each somewhat longer."""
    warmup: int = 200
    """Steps of linear warm-up."""
    floor: float = 0.02
    """Learning rate at the last step, as a fraction of the peak."""
    beta1: float = 0.9
    """Decay of AdamW's running mean of the gradient."""
    beta2: float = 0.99
    """Decay of AdamW's running mean of the squared gradient."""
    weight_decay: float = 0.02
    """Decoupled weight decay of tensors with two or more dimensions, so not of biases and norms."""
    clip: float = 1.0
    """Largest gradient norm. Larger gradients are scaled down to it."""

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
    """Options of all trainers."""

    data: str
    """The training data."""
    out: str
    """Run folder, for config, log, checkpoints, samples and the final model. Give the same one to resume."""
    steps: int
    """Optimizer steps in all."""
    init: Path | None = None
    """Model to start from, the `model` folder of another run; by default random weights. It must have the same shape
    and use the same token ids."""
    seed: int = 0
    """Seed of the initial weights, the order of the data, dropout and augmentation."""
    dry_run: bool = False
    """Print the resolved config, the model's size and the first batch's shapes, then stop."""
    batch_size: int = 64
    """Pictures per optimizer step, over all processes and accumulated passes."""
    accumulation: int = 1
    """Forward passes per optimizer step. More passes need less memory."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimizer."""
    ema_length: float = 0.15
    """Length of the moving average of the weights, which is what is exported: the standard deviation of the steps that
    it is of, as a share of all steps so far (sigma_rel of arXiv 2312.02696). With 0, the last weights are exported."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to train on. `auto` is a GPU if there is one. With several, `accelerate launch` gives each process one. A
    run may resume on another device."""
    precision: Literal["auto", "no", "bf16"] = "auto"
    """Autocast of the forward pass. `auto` is bf16 on hardware that supports it, else `no`. A run may resume in another
    precision, for example on another machine; the log says from which step on."""
    log_every: int = 20
    """Steps between log lines."""
    sample_every: int = 500
    """Steps between sample pictures. 0 means none."""
    checkpoint_every: int = 250
    """Steps between checkpoints."""
    keep_every: int = 0
    """Steps between copies of the averaged model that stay in `averages/`, to be mixed by `python -m sampling.average`.
    0 means none."""
    workers: int = 0
    """Worker processes that prepare batches. With 0, the trainer prepares them itself."""
    cache: Path | None = None
    """Folder for prepared pictures; by default the user's cache folder."""
    verify: bool = False
    """Before training, read all prepared data and stop if any of it is damaged."""
    trackers: list[str] = field(default_factory=list)
    """Where to send the log besides `log.jsonl`: `tensorboard`, `wandb`, or any other installed tracker that Accelerate
    supports. May be repeated."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "log_every", "checkpoint_every"):
            require(self, name, getattr(self, name) >= 1, "1 or more")
        for name in ("sample_every", "keep_every", "workers"):
            require(self, name, getattr(self, name) >= 0, "0 or more")
        require(self, "ema_length", 0 <= self.ema_length <= 0.28, "from 0 to 0.28")
        require(self, "seed", 0 <= self.seed < 2**31, "from 0 to 2147483647")
