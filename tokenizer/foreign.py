"""Reads checkpoints of other code bases as data: safetensors, and pickles from which nothing but tensors is built."""

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import safe_globals

from training.errors import BadInput
from training.strict_json import read_json
from training.strict_yaml import read_yaml

_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


class _Nothing:
    """Stands for an object of a class that is not imported: takes what a pickle gives it, and keeps none of it."""

    def __new__(cls, *args: Any) -> "_Nothing":
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


STAND_INS = {
    "argparse.Namespace": _Nothing,
    "numpy.core.multiarray.scalar": _Nothing,
    "numpy.dtype": _Nothing,
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping": _Nothing,
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint": _Nothing,
    "pytorch_lightning.utilities.parsing.AttributeDict": OrderedDict,
}
"""What checkpoints of Lightning and LlamaGen name beside tensors and plain values, and what stands for it."""


class Foreign(NamedTuple):
    """A checkpoint of another code base."""

    file: Path
    tensors: dict[str, Tensor]
    """The weights, by their names there."""
    config: dict[str, Any]
    """The settings beside the weights; empty if there are none."""
    left_out: list[str]
    """What else the file has, such as the optimizer's state."""


def read_foreign(source: Path) -> Foreign:
    """Read a weights file, or the only one in a folder, with the `config.json` or YAML file beside it.

    Raises:
        BadInput: there is no such file, or more than one; it is damaged; or it is a pickle that names anything but
            tensors, plain values and `STAND_INS`. Nothing that a pickle names is imported or run.
    """
    file = _weights_file(source)
    tensors, left_out = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)
    return Foreign(file, tensors, _config_beside(file), left_out)


def _weights_file(source: Path) -> Path:
    if source.is_file():
        return source
    if not source.is_dir():
        raise BadInput(f"{source}: no such file or folder")
    files = sorted(file for file in source.iterdir() if file.suffix in (".safetensors", *_PICKLES) and file.is_file())
    files = [file for file in files if file.suffix == ".safetensors"] or files
    if len(files) != 1:
        found = f"has {', '.join(file.name for file in files[:4])}: give one of them" if files else "has no weights"
        raise BadInput(f"{source}: {found}; weights end in .safetensors, {', '.join(_PICKLES)}")
    return files[0]


def _config_beside(file: Path) -> dict[str, Any]:
    for config in (file.with_suffix(".yaml"), file.parent / "config.json", *sorted(file.parent.glob("*.yaml"))[:1]):
        if config.is_file():
            return read_json(config) if config.suffix == ".json" else read_yaml(config)
    return {}


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], list[str]]:
    try:
        return load_file(file), []
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{file}: not a complete safetensors file ({error}); fetch it again") from None


def _read_pickle(file: Path) -> tuple[dict[str, Tensor], list[str]]:
    try:
        with safe_globals([(kind, name) for name, kind in STAND_INS.items()]):
            values = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile pickle may raise anything
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named:
            raise BadInput(
                f"{file}: names {named[1]}, and loading that could run code: only tensors, plain values and "
                f"{', '.join(STAND_INS)} are read"
            ) from None
        raise BadInput(f"{file}: not a complete checkpoint of torch ({type(error).__name__}); fetch it again") from None
    inner = next((name for name in ("state_dict", "model") if isinstance(values, dict) and name in values), None)
    tensors = values[inner] if inner else values
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()
    ):
        raise BadInput(f"{file}: has no weights by name, at the top or under `state_dict` or `model`")
    return dict(tensors), [str(name) for name in values if inner and name != inner]
