"""Several processes that work on one thing, as `accelerate launch` starts them."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from accelerate import Accelerator

from training.errors import BadInput

_BETWEEN_LOOKS = 0.5
"""Seconds between two looks at whether a paused launcher goes on."""


def require_joined(count: int) -> None:
    """Raises `BadInput` unless all processes of the launcher are among the `count` that Accelerate has joined."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != count:
        raise BadInput(
            f"the launcher started {launched} processes but Accelerate joined {count}; "
            "each would work alone: check the options of `accelerate launch` (--multi_gpu starts processes on CPUs too)"
        )


def share_cores() -> None:
    """Sets threads to cores / processes of this machine: the launcher's OMP_NUM_THREADS=1 leaves most cores idle."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # the cores that this process may use, where the system tells: macOS does not
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(1, cores // local))


class Signals:
    """What was asked of a run from outside, as all of its processes agree on it after each step.

    Ctrl-C and SIGTERM to any of them ask it to stop. Stopping the launcher (Ctrl-Z, SIGSTOP) pauses it: where there are
    several processes, each is in a session of its own, which no signal to the launcher's group reaches.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator, self._asked_to_stop = accelerator, False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """While it is entered, signals wait for `agreed`."""

        def stop(signum: int, frame: Any) -> None:
            self._asked_to_stop = True

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def agreed(self) -> tuple[bool, float]:
        """Whether to stop, and for how many seconds there was a pause."""
        asked = torch.tensor([self._asked_to_stop, _launcher_is_stopped()], device=self._accelerator.device).int()
        stop, pause = (self._accelerator.reduce(asked) > 0).tolist()
        began = time.perf_counter()
        while pause and _launcher_is_stopped():  # all of them between the same two steps: nobody waits for a gradient
            time.sleep(_BETWEEN_LOOKS)
        return stop, time.perf_counter() - began if pause else 0.0


def _launcher_is_stopped() -> bool:
    if "LOCAL_WORLD_SIZE" not in os.environ:  # one process alone is in its launcher's group
        return False
    try:
        return psutil.Process(os.getppid()).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False
