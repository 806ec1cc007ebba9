"""Trackers beside the log: all that Accelerate knows, TensorBoard and Weights & Biases among them."""

from collections.abc import Mapping, Sequence
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import LoggerType

from training.errors import BadInput


def require_trackers(names: Sequence[str]) -> None:
    """Raises `BadInput` for a tracker that Accelerate does not know, and for one that is not installed."""
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise BadInput(f"trackers: there is no {name!r}; there are {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
        if name in LoggerType and LoggerType(name) not in get_available_trackers():
            raise BadInput(f"trackers: {name} is not installed; install its package, or leave it out")


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str | float]:
    """Nested options under dotted names, as trackers take them: numbers, and text for all else."""
    found: dict[str, str | float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value if isinstance(value, str | float | int) else str(value)
    return found
