"""Several processes that work on one thing, as `accelerate launch` starts them."""

import os

import torch

from training.errors import BadInput


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
