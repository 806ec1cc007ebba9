"""What there is to learn: modules, their optimizers and losses. How it is done is the `Trainer`'s."""

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
from training.pretrained import exported

_AT_ONCE = 2**14
"""Of how many image tokens evaluation makes one pass: all of its pictures where they have 64."""

Draw = Callable[[Any, list[str]], Iterable[Tensor]]
"""(model, captions) -> a picture of each, uint8 (3, H, W)."""


class Loss(NamedTuple):
    """What an optimizer is to make smaller."""

    optimizer: str
    value: Tensor
    """A scalar."""
    scalars: dict[str, Tensor]
    """To log beside it."""


@dataclass(kw_only=True)
class TaskConfig(Tagged):
    """Which task a trainer has, and its options. Each trainer has a family of its own."""

    task: ClassVar[str]
    """The class of the task, `module.Class`: a command that only says what its options are does not import it."""

    def build(self, *given: Any) -> "Task":
        """Makes the task of what the trainer has: that which the usual task of the family is made of."""
        module, _, name = self.task.rpartition(".")
        return getattr(import_module(module), name)(*given)


class Task(ABC):
    """One or more modules, each with an optimizer of its own, and what they are to learn."""

    modules: dict[str, nn.Module]
    """By name. The first, `model`, is averaged, evaluated and exported. The `Trainer` puts the modules that Accelerate
    has prepared in their places: what is called here goes through DDP or a compiled graph."""
    optimizers: dict[str, torch.optim.Optimizer]
    """That of each module, under its name. A group's `lr` is its peak."""
    rules: dict[str, OptimizerConfig]
    """Likewise how it is warmed up, decays and is clipped."""
    tokens: int
    """Image tokens a picture, for the log's tokens/s."""

    def __init__(self, model: nn.Module, optimizer: OptimizerConfig, tokens: int) -> None:
        self.modules, self.optimizers, self.rules, self.tokens = {}, {}, {}, tokens
        self.add("model", model, optimizer)

    def add(self, name: str, module: nn.Module, optimizer: OptimizerConfig) -> None:
        """Has `module` learn too, by an optimizer of its own."""
        self.modules[name], self.optimizers[name] = module, optimizer_for(module, optimizer)
        self.rules[name] = optimizer

    @abstractmethod
    def losses(self, batch: Batch, step: int) -> Iterator[Loss]:
        """The losses of a forward pass, in turn: each has gone through backward before the next is asked for.

        A loss reaches the module of its own optimizer alone. Where its gradient is to flow through another one, as that
        of a picture through its judge, call that module itself, not the prepared one in `modules`: DDP would wait for
        gradients of its parameters. An optimizer without a loss in a step is not stepped.
        """

    @abstractmethod
    def evaluate(self, average: Any, file: Path) -> dict[str, float]:
        """Draws a PNG of what the averaged model can do; returns figures to log."""

    def parts(self, *whole: Tensor) -> Iterator[tuple[Any, ...]]:
        """Tensors of pictures some pictures at a time, for passes of `_AT_ONCE` tokens, after their share of all."""
        for part in zip(*(torch.split(tensor, max(1, _AT_ONCE // self.tokens)) for tensor in whole), strict=True):
            yield len(part[0]) / len(whole[0]), *part

    def export(self, average: Any, folder: Path) -> None:
        """Writes the finished model, a `PretrainedModel`; it may change `average`."""
        average.load_state_dict(exported(average))
        average.to(torch.bfloat16).save_pretrained(folder)


def label(what: str, name: str) -> str:
    """What the log and a checkpoint call something of a module: that of `model` bears no other name."""
    return what if name == "model" else f"{what}_{name}"
