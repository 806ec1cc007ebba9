"""Models on disk: a folder with `config.json` and `model.safetensors`, local or on the Hugging Face Hub."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Self, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from training.config import flatten, from_dict, non_defaults, to_dict
from training.device import usable_device
from training.errors import BadInput
from training.files import write_json, write_tensors, write_text
from training.hub import fetched, identity
from training.strict_json import read_json

_FILES = ("config.json", "model.safetensors")


class PretrainedModel(nn.Module):
    """Base class of saved models. Adds `from_pretrained`, `save_pretrained` and `push_to_hub`.

    Configs come back as dataclasses, and weights in the dtype of the file. An unknown config field, a missing tensor or
    an extra one is an error that names it.
    """

    config_class: ClassVar[type]
    config: Any

    @property
    def training_only(self) -> Collection[str]:
        """Dotted names of config fields that matter in training only. They change nothing that given weights
        compute."""
        return ()

    @property
    def model_id(self) -> str:
        """Identifies the model: a hash of its weights and of the config fields that differ from their defaults. A text
        encoder counts by its hash, so the model keeps its id where the encoder is moved."""
        changed = non_defaults(self.config, exclude=self.training_only)
        return fingerprint({name: identity(value) for name, value in changed.items()}, self.state_dict())

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config, weights and, where there is no README.md, a card. Bundles have the full card
        (`sampling.bundle`)."""
        folder, name = Path(folder), type(self).__name__
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", {"model": name, **to_dict(self.config)})
        write_tensors(folder / "model.safetensors", self.state_dict())
        if not (folder / "README.md").exists():
            card = f"---\nlibrary_name: tessera\n---\n\n# {name}\n\nIts bundle has the card.\n"
            write_text(folder / "README.md", card)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, **options: Any) -> str:
        """Saves the model in the repository `owner/name` on the Hub, which is created if there is none.

        Args:
            repo_id: the repository.
            private: whether a new repository is private. None follows the owner's default.
            options: other arguments of `HfApi.upload_folder`, such as `commit_message` and `revision`.

        Returns:
            The URL of the commit.
        """
        from huggingface_hub import HfApi  # loads an HTTP client

        api = HfApi()
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, **options))

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
    ) -> Self:
        """Loads a model in eval mode, from a folder or from the Hub (`hf://owner/name@commit`).

        Args:
            path: the folder, or the model on the Hub.
            dtype: casts the floating-point weights. None keeps the dtype of the file.
            device: where to put the model; `auto` is the best one here (`training.device`).

        Raises:
            BadInput: a file is missing, truncated or does not fit the config, or there is no such device.
        """
        device = usable_device(device)
        folder, _ = fetched(path, _FILES)
        config_file, weights_file = (folder / name for name in _FILES)
        for file in (config_file, weights_file):
            if not file.is_file():
                raise BadInput(f"{folder}: has no {file.name}, so it is not a complete model folder")
        values = read_json(config_file, max_bytes=2**20)
        kind = values.pop("model", None)
        if kind != cls.__name__:
            raise BadInput(f"{config_file}: holds a {kind or 'model of unknown kind'}, not a {cls.__name__}")
        config: Any = from_dict(cls.config_class, values, config_file)
        # Check the sizes on the meta device first: a wrong config must not allocate memory.
        with torch.device("meta"), _NoRandomInit():
            _require_fit(weights_file, cls(config).state_dict())
        with _NoRandomInit():
            model = cls(config)
        model._load(weights_file)
        return model.to(device=device, dtype=dtype).eval()

    def _load(self, file: Path) -> None:
        """Loads the tensors of `file`, which `_require_fit` has checked. Raises `BadInput` if a number is not
        finite."""
        with _reading(file):
            tensors = load_file(file)
        broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
        if broken:  # the model would draw noise without an error
            raise BadInput(
                f"{file}: {min(broken)} has nan or infinite numbers, perhaps from training that diverged or a bad "
                "merge; take an earlier checkpoint, or fetch it again"
            )
        self.load_state_dict(tensors, assign=True)


Model = TypeVar("Model", bound=PretrainedModel)


class _NoRandomInit(TorchFunctionMode):
    """Allocates tensors without random initial values, which weights from a file would replace anyway."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return (torch.empty if func is torch.randn else func)(*args, **(kwargs or {}))


_FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_DTYPES = {
    **_FLOATS,
    "F64": torch.float64, "I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_MAX_HEADER = 2**24
"""In bytes. Enough for a hundred thousand tensors."""


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{file}: not a complete safetensors file ({error}); fetch or export it again") from None


def _require_fit(file: Path, own: Mapping[str, Tensor]) -> None:
    """Raises `BadInput` unless the header of `file` lists exactly the tensors in `own`, with their shapes and dtypes.

    Any floating-point dtype fits any other.
    """
    with _reading(file):
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
        if size > _MAX_HEADER:
            raise SafetensorError(f"a header of {size:,} bytes")
        with safe_open(file, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 not a dict
            shapes = {name: tuple(one.get_shape()) for name, one in slices.items()}
            dtypes = {name: one.get_dtype() for name, one in slices.items()}
    wrong = [f"lacks {name}" for name in own.keys() - shapes.keys()]
    wrong += [f"has an unknown {name}" for name in shapes.keys() - own.keys()]
    for name in own.keys() & shapes.keys():
        mine, shape, dtype = own[name], shapes[name], dtypes[name]
        if mine.shape != shape:
            wrong.append(f"has {name} of shape {shape}, config says {tuple(mine.shape)}")
        if _DTYPES.get(dtype) != mine.dtype and not (mine.is_floating_point() and dtype in _FLOATS):
            wrong.append(f"has {name} of {_DTYPES.get(dtype, dtype)}")
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise BadInput(f"{file}: does not fit its config.json: {min(wrong)}{more}")


def start_from(model: PretrainedModel, init: Path, free: Collection[str] = ()) -> None:
    """Initialises `model`, in place, with the weights of `startable(model, init, free)`."""
    model.load_state_dict(startable(model, init, free).state_dict())


def startable(model: Model, init: Path, free: Collection[str] = ()) -> Model:
    """Loads another model of the class of `model`, in float32, after checking that `model` can start from it.

    Args:
        model: the model that is to start.
        init: the folder of the other model.
        free: dotted names of config fields that may differ, besides `training_only` ones.

    Raises:
        BadInput: it has another shape or uses other ids. The message names the fields that differ.
    """
    other = type(model).from_pretrained(init, dtype=torch.float32)
    theirs, ours = flatten(to_dict(other.config)), flatten(to_dict(model.config))
    wrong = [
        f"{name}: {theirs.get(name)!r} there, {value!r} here"
        for name, value in ours.items()
        if name not in {*free, *model.training_only} and identity(theirs.get(name)) != identity(value)
    ]
    if wrong:
        raise BadInput(f"{init}: not a model to start from ({', '.join(wrong)})")
    return other


def fingerprint(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """A hash of settings and tensors: 16 hexadecimal digits.

    Tensors are hashed as float32, so a cast to a lower precision and back changes nothing if it loses nothing.
    """
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def exported(model: nn.Module) -> dict[str, Tensor]:
    """The state dict for release: floating-point tensors in bfloat16."""
    return {
        name: tensor.detach().to(torch.bfloat16) if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
