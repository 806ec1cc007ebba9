"""A task defines what is trained: modules, their optimizers and losses. The `Trainer` runs the loop around it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from training.batches import Batch
from training.optimizer import optimizer_for
from training.options import OptimizerConfig
from training.parts import Tagged

_PLACES_A_PASS = 2**14
"""Places in one pass of evaluation. 256 pictures of 64 tokens fit into one pass."""

Draw = Callable[[Any, list[str]], Iterable[Tensor]]
"""(model, captions) -> one picture per caption, uint8 (3, H, W)."""


class Loss(NamedTuple):
    """The loss that one optimizer minimises."""

    optimizer: str
    """The name of the optimizer in the task, which is also the name of its module."""
    value: Tensor
    """A scalar."""
    scalars: dict[str, Tensor]
    """More scalars to log, by name. One named `loss` is logged in the place of `value`."""


@dataclass(kw_only=True)
class TaskConfig(Tagged):
    """Base of the configs of tasks. Each trainer has its own family of tasks to choose from."""

    task: ClassVar[str]
    """The class of the task, as `module.Class`. It is text, so that `--help` need not import the task."""

    def build(self, *given: Any) -> "Task":
        """Makes the task. `given` are the arguments of the family's default task."""
        module, _, name = self.task.rpartition(".")
        return getattr(import_module(module), name)(*given)


class Task(ABC):
    """One or more modules, each with its own optimizer, and their losses."""

    modules: dict[str, nn.Module]
    """The modules by name. The first, `model`, is averaged, evaluated and exported. The `Trainer` replaces each module
    by the one that Accelerate has prepared, so calls go through DDP or a compiled graph."""
    optimizers: dict[str, torch.optim.Optimizer]
    """The optimizer of each module, by the module's name. The `lr` of a parameter group is its peak."""
    rules: dict[str, OptimizerConfig]
    """The config of each optimizer (warm-up, decay, clipping), by the module's name."""
    tokens: int
    """Image tokens per picture, to log tokens per second; 0 if pictures have none."""
    places: int
    """Places of a picture that a pass computes, its tokens or pixels, by which `parts` splits."""

    def __init__(self, model: nn.Module, optimizer: OptimizerConfig, *, tokens: int = 0, places: int = 0) -> None:
        """Without `places`, these are the `tokens`."""
        self.modules, self.optimizers, self.rules = {}, {}, {}
        self.tokens, self.places = tokens, places or tokens
        self.add("model", model, optimizer)

    def add(self, name: str, module: nn.Module, optimizer: OptimizerConfig) -> None:
        """Adds a module to train, with its own optimizer."""
        self.modules[name], self.optimizers[name] = module, optimizer_for(module, optimizer)
        self.rules[name] = optimizer

    @abstractmethod
    def losses(self, batch: Batch, step: int) -> Iterator[Loss]:
        """Yields the losses of one forward pass. The `Trainer` runs backward on each before it asks for the next.

        A loss trains only the module of its own optimizer. If its gradient must flow through another module, as a
        generator's does through the discriminator, call that module itself and not the prepared one in `modules`: DDP
        would wait for gradients of its parameters. An optimizer without a loss in a step is not stepped.
        """

    @abstractmethod
    def evaluate(self, average: Any, file: Path) -> dict[str, float]:
        """Writes sample pictures of the averaged model to `file`, a PNG. Returns figures to log."""

    def require_healthy(self, step: int, means: dict[str, float]) -> None:  # noqa: B027 most tasks judge nothing
        """Raises `BadInput` if the run should stop, judged by the `means` that are logged after `step` steps.

        It is called on all processes, with the same values, before anything of the step is saved.
        """

    def parts(self, *whole: Tensor) -> Iterator[tuple[Any, ...]]:
        """Splits tensors (B, ...) along B for passes of `_PLACES_A_PASS` places; yields (fraction of B, *parts)."""
        pictures = max(1, _PLACES_A_PASS // self.places)
        for part in zip(*(torch.split(tensor, pictures) for tensor in whole), strict=True):
            yield len(part[0]) / len(whole[0]), *part

    def export(self, average: Any, folder: Path) -> None:
        """Writes the averaged model, a `PretrainedModel`, into `folder`. It may change `average`."""
        average.to(torch.bfloat16).save_pretrained(folder)


def label(what: str, name: str) -> str:
    """The name of a module's value in logs and checkpoints: `loss` of the module `model`, `loss_critic` of `critic`."""
    return what if name == "model" else f"{what}_{name}"
