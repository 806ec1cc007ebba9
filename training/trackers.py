"""Experiment trackers beside `log.jsonl`: TensorBoard, Weights & Biases, and all others that Accelerate supports."""

from collections.abc import Sequence

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import LoggerType

from training.errors import BadInput


def require_trackers(names: Sequence[str]) -> None:
    """Raises `BadInput` for a tracker that Accelerate does not support, or that is not installed."""
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise BadInput(f"trackers: there is no {name!r}; there are {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
        if name in LoggerType and LoggerType(name) not in get_available_trackers():
            raise BadInput(f"trackers: {name} is not installed; install its package, or leave it out")
