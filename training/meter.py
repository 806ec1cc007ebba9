"""Averages of losses, and speed, between two log lines."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from training.task import Loss, label


class Meter:
    """Collects losses, gradient norms and step times, until they are read for the log."""

    def __init__(self, accelerator: Accelerator, batch_size: int, tokens: int) -> None:
        """`batch_size`: pictures per step, over all processes. `tokens`: image tokens per picture, or 0."""
        self._accelerator, self._batch_size, self._tokens = accelerator, batch_size, tokens
        self._begin()

    def _begin(self) -> None:
        self._steps = 0
        self._values: dict[str, tuple[Tensor, int]] = {}  # name: (sum, count)
        self._norms: dict[str, list[Tensor]] = defaultdict(list)
        self._clock = time.perf_counter()

    def add(self, loss: Loss) -> None:
        """Adds the loss of a forward pass and its scalars."""
        for what, value in {"loss": loss.value, **loss.scalars}.items():
            name = label(what, loss.optimizer)
            total, count = self._values.get(name, (0, 0))
            self._values[name] = total + value.detach().float(), count + 1

    def add_norm(self, optimizer: str, norm: Tensor) -> None:
        """Adds the gradient norm of one step of an optimizer."""
        self._norms[optimizer].append(norm)

    def add_step(self, paused: float) -> None:
        """Counts one finished step. Its speed leaves out `paused` seconds."""
        self._steps += 1
        self._clock += paused

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Leaves the time that the block takes out of the speed."""
        if self._accelerator.device.type != "cpu":  # or the block would wait for steps that are still being computed
            torch.accelerator.synchronize(self._accelerator.device)
        began = time.perf_counter()
        yield
        self._clock += time.perf_counter() - began

    def read(self) -> tuple[dict[str, float], dict[str, float]]:
        """Returns and resets what was collected. Every process must call it.

        Returns:
            The values to log: means over steps and processes, speed, and the last gradient norms.
            The largest gradient norm of each optimizer, by name.
        """
        local = [total / count for total, count in self._values.values()]
        means = self._accelerator.reduce(torch.stack(local), "mean").tolist() if local else []
        speed = self._steps * self._batch_size / (time.perf_counter() - self._clock)
        values = {
            **dict(zip(self._values, means, strict=True)),
            "images_per_second": speed, **({"tokens_per_second": speed * self._tokens} if self._tokens else {}),
            **{label("grad_norm", name): float(norms[-1]) for name, norms in self._norms.items()},
        }  # fmt: skip
        largest = {name: float(np.max([float(norm) for norm in norms])) for name, norms in self._norms.items()}
        self._begin()
        return values, largest
