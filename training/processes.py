"""What the processes of `accelerate launch` must agree on: that all have joined, cores, and signals."""

import ctypes
import os
import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import distributed

from training.errors import BadInput

if TYPE_CHECKING:
    from accelerate import Accelerator

_POLL_SECONDS = 0.5
"""How often to check whether a paused launcher has continued."""
_MMAP_MAX, _TRIM_THRESHOLD = -4, -1
"""Settings of glibc's `mallopt`: how many blocks may come from the kernel one by one, and when to return memory."""


def require_joined(count: int) -> None:
    """Raises `BadInput` unless `count`, the processes that Accelerate has joined, is all that the launcher started."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != count:
        raise BadInput(
            f"the launcher started {launched} processes but Accelerate joined {count}; "
            "each would train alone: check the options of `accelerate launch` (--multi_gpu works for CPUs too)"
        )


def set_up_cpu() -> None:
    """Divides the cores of this machine among its processes, and keeps freed memory for the next step.

    The launcher's OMP_NUM_THREADS=1 would leave most cores idle. And glibc returns blocks above 32 MB to the kernel,
    which clears each page when it is next used. Where there is no glibc, nothing is kept.
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # macOS cannot say which cores this process may use
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(1, cores // local))
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, -1)  # never


class Signals:
    """Requests to stop or pause a run, on which all of its processes agree after each step.

    Ctrl-C or SIGTERM to any process asks all to stop. Stopping the launcher (Ctrl-Z, SIGSTOP) pauses them. With several
    processes, each is in its own session, so signals to the launcher's process group do not reach it.
    """

    def __init__(self, accelerator: "Accelerator") -> None:
        self._asked_to_stop = False
        self._group = distributed.new_group(backend="gloo") if accelerator.num_processes > 1 else None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Inside the block, signals set a flag for `poll` instead of ending the process."""

        def stop(signum: int, frame: Any) -> None:
            self._asked_to_stop = True

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def poll(self) -> tuple[bool, float]:
        """Waits while the run is paused. Returns whether to stop, and the seconds paused. Every process must call
        it."""
        asked = torch.tensor([self._asked_to_stop, _launcher_is_stopped()]).int()
        if self._group:  # of CPUs: a GPU would be waited for, until it has done all of the step
            distributed.all_reduce(asked, distributed.ReduceOp.MAX, group=self._group)
        stop, pause = asked.bool().tolist()
        began = time.perf_counter()
        # all processes pause between the same two steps, so none waits for the gradients of another
        while pause and _launcher_is_stopped():
            time.sleep(_POLL_SECONDS)
        return stop, time.perf_counter() - began if pause else 0.0


def _launcher_is_stopped() -> bool:
    if "LOCAL_WORLD_SIZE" not in os.environ:  # a single process is in the launcher's group and stops with it
        return False
    try:
        return psutil.Process(os.getppid()).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False
