"""The device to compute on: `auto`, or a name of torch's."""

import dataclasses
from typing import Any, ClassVar, NoReturn, Protocol, TypeVar

import torch

from training.errors import BadInput


class _Options(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def device(self) -> str: ...


Options = TypeVar("Options", bound=_Options)


def usable_device(name: str | torch.device) -> torch.device:
    """The device of a name: one of torch's, such as `cpu`, `cuda`, `cuda:1` or `mps`, or `auto`.

    `auto` is a CUDA GPU where there is one, else Apple's GPU (`mps`), else the CPU. Nothing is allocated, so each of
    several processes may ask before it has taken its own GPU.

    Raises:
        BadInput: this machine has no such device.
    """
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        count = torch.get_device_module(device).device_count()
    except RuntimeError as error:
        _refuse(name, str(error).splitlines()[0])
    if (device.index or 0) >= count:
        _refuse(name, f"torch {torch.__version__} finds {count or 'none'} of this kind")
    return device


def with_device(options: Options) -> Options:
    """The same options, with the name of a usable device for `auto`. Raises `BadInput` as `usable_device` does."""
    return dataclasses.replace(options, device=str(usable_device(options.device)))


def _refuse(name: str | torch.device, reason: str) -> NoReturn:
    raise BadInput(f"device '{name}' cannot be used here ({reason}); use another, such as 'cpu'")
