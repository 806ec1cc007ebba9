"""Models on disk: round trips, and one-line errors that name what does not fit."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.config import require
from training.errors import BadInput
from training.pretrained import PretrainedModel, exported


@dataclass(kw_only=True)
class SmallConfig:
    """The config of `Small`."""

    width: int = 4
    """Width."""

    def __post_init__(self) -> None:
        require(self, "width", self.width >= 1, "1 or more")


class Small(PretrainedModel):
    config_class = SmallConfig

    def __init__(self, config: SmallConfig) -> None:
        super().__init__()
        self.config = config
        self.linear = nn.Linear(config.width, 2)
        self.register_buffer("mean", torch.randn(config.width))
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("unsaved", torch.arange(3.0), persistent=False)
        self.table = torch.linspace(0, 1, 4)


class Other(Small):
    pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    Small(SmallConfig(width=3)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def refusal(folder: str | Path, kind: type[Small] = Small, **options: str) -> str:
    with pytest.raises(BadInput) as error:
        kind.from_pretrained(folder, **options)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_keeps_values_and_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    model = Small(SmallConfig(width=5)).to(dtype)
    model.save_pretrained(tmp_path / "model")
    again = Small.from_pretrained(tmp_path / "model")
    assert again.config == SmallConfig(width=5)
    assert not again.training
    assert again.linear.weight.dtype == dtype
    assert again.count.dtype == torch.int64
    assert torch.equal(again.unsaved.float(), torch.arange(3.0))  # in no file
    assert torch.equal(again.table, model.table)
    assert again.linear.weight.requires_grad
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_dtype_casts_floating_point_only(folder: Path) -> None:
    model = Small.from_pretrained(str(folder), dtype=torch.bfloat16)
    assert {t.dtype for t in model.state_dict().values()} == {torch.bfloat16, torch.int64}


def test_exported_is_bfloat16_and_loads_into_the_model_unchanged() -> None:
    model = Small(SmallConfig())
    released = exported(model)
    assert {name: t.dtype for name, t in released.items()} == {
        "linear.weight": torch.bfloat16, "linear.bias": torch.bfloat16, "mean": torch.bfloat16, "count": torch.int64,
    }  # fmt: skip
    model.load_state_dict(released)
    assert model.linear.weight.dtype == torch.float32
    assert all(torch.equal(t.to(released[name].dtype), released[name]) for name, t in model.state_dict().items())


def test_a_folder_holds_config_weights_and_card(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert json.loads((folder / "config.json").read_text()) == {"model": "Small", "width": 3}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert refusal(folder) == f"{folder}: has no {name}, so it is not a complete model folder"


def test_no_such_folder(tmp_path: Path) -> None:
    said = f"{tmp_path / 'nothing'}: no such folder; a model on the Hub is given as hf://owner/name"
    assert refusal(tmp_path / "nothing") == said


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_truncated_weights(folder: Path, size: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    assert refusal(folder).startswith(f"{file}: not a complete safetensors file")


def test_a_missing_tensor(folder: Path) -> None:
    change(folder, lambda tensors: tensors.pop("linear.bias"))
    assert "lacks linear.bias" in refusal(folder)


def test_an_unknown_tensor(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update(extra=torch.zeros(1)))
    assert "has an unknown extra" in refusal(folder)


def test_a_misshapen_tensor(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({"linear.weight": torch.zeros(2, 9)}))
    assert "has linear.weight of shape (2, 9), config says (2, 3)" in refusal(folder)


def test_a_tensor_of_another_kind(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({"linear.weight": torch.zeros(2, 3, dtype=torch.int64)}))
    assert "has linear.weight of torch.int64" in refusal(folder)


def test_several_misfits_are_counted(folder: Path) -> None:
    change(folder, lambda tensors: (tensors.pop("mean"), tensors.update(extra=torch.zeros(1))))
    assert refusal(folder).endswith("has an unknown extra (and 1 more)")


def test_another_model(folder: Path) -> None:
    assert refusal(folder, Other) == f"{folder / 'config.json'}: holds a Small, not a Other"
    (folder / "config.json").write_text("{}")
    assert "model of unknown kind" in refusal(folder)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('{"model": "Small", "width": 3, "depth": 1}', "depth"),
        ('{"model": "Small", "width": "wide"}', "width"),
        ('{"model": "Small", "width": 0}', "SmallConfig.width is 0: must be 1 or more"),
        ('{"model": "Small", "width": null}', "width"),
        ('{"model": "Small", "width"', "not valid JSON"),
        ("[]", "holds a list, not a JSON object"),
    ],
)
def test_a_wrong_config(folder: Path, config: str, said: str) -> None:
    (folder / "config.json").write_text(config)
    message = refusal(folder)
    assert message.startswith(f"{folder / 'config.json'}: ")
    assert said in message


def test_an_unknown_device_is_refused(folder: Path) -> None:
    assert refusal(folder, device="nonsense").startswith("device 'nonsense' cannot be used here")


def header(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Rewrites the header of the weights and nothing after it."""
    file = folder / "model.safetensors"
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    values = json.loads(content[8:end])
    edit(values)
    text = json.dumps(values).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda h: h["linear.weight"].update(shape=[2**20, 2**20]), "not a complete safetensors file"),
        (lambda h: h["linear.weight"].update(data_offsets=[0, 2**40]), "not a complete safetensors file"),
        (lambda h: h["linear.weight"].update(dtype="Q4"), "not a complete safetensors file"),
        (lambda h: h["linear.weight"].update(dtype="I32"), "has linear.weight of torch.int32"),
        (lambda h: h["mean"].update(dtype="U32"), "has mean of U32"),
        (lambda h: h["count"].update(dtype="F64"), "has count of torch.float64"),
        (lambda h: h.pop("count"), "not a complete safetensors file"),
    ],
)
def test_a_damaged_header(folder: Path, edit: Callable[[dict[str, Any]], object], said: str) -> None:
    header(folder, edit)
    assert said in refusal(folder)


def test_a_header_that_claims_to_be_long(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.write((2**30).to_bytes(8, "little"))
        file.truncate(2**31)
    assert "a header of 1,073,741,824 bytes" in refusal(folder)


def test_a_config_larger_than_its_weights_is_not_allocated(folder: Path) -> None:
    """A config of a few bytes allocated terabytes before the weights were checked."""
    (folder / "config.json").write_text('{"model": "Small", "width": 1099511627776}')
    assert "config says (2, 1099511627776)" in refusal(folder)


def test_it_is_pushed_with_config_weights_and_card(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: list[set[str]] = []
    created = SimpleNamespace(repo_id="owner/name")
    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: created)
    monkeypatch.setattr(
        HfApi,
        "upload_folder",
        lambda *_, folder_path, **__: pushed.append({f.name for f in Path(folder_path).iterdir()}),
    )
    Small.from_pretrained(folder).push_to_hub("owner/name")
    assert pushed == [{"config.json", "model.safetensors", "README.md"}]


def test_loading_uses_no_random_numbers(folder: Path) -> None:
    state = torch.get_rng_state()
    model = Small.from_pretrained(folder)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
