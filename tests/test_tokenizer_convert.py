"""Imports of other tokenizers: `VQModel` of diffusers is the original, under its own names and those of others."""

import argparse
import json
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, VQModel
from safetensors.torch import save_file
from test_seq2seq_train import _fresh_accelerator, fit, parts  # noqa: F401
from torch import Tensor
from torch.nn import functional as F

from tokenizer.convert import ConvertOptions, main
from tokenizer.foreign import STAND_INS, read_foreign
from tokenizer.image_tokenizer import ImageTokenizer, to_float
from tokenizer.layouts import imported
from training.command_line import parse
from training.errors import BadInput

IMAGES = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def vq_model(channels: tuple[int, ...] = (8, 8, 16, 16), groups: int = 4, **options: Any) -> VQModel:
    """An original with attention at the lowest level, and codes that differ from place to place."""
    torch.manual_seed(0)
    down, up = ["DownEncoderBlock2D"] * len(channels), ["UpDecoderBlock2D"] * len(channels)
    down[-1], up[0] = "AttnDownEncoderBlock2D", "AttnUpDecoderBlock2D"
    usual = {"layers_per_block": 2, "latent_channels": 6, "vq_embed_dim": 4, "num_vq_embeddings": 50, "sample_size": 64}
    model = VQModel(
        down_block_types=down, up_block_types=up, block_out_channels=channels, norm_num_groups=groups,
        **{**usual, **options},
    ).eval()  # fmt: skip
    with torch.no_grad():
        model.quant_conv.weight.mul_(3)
        model.quantize.embedding.weight.normal_()
    return model


def other_names(model: VQModel, rules: dict[str, str]) -> dict[str, Tensor]:
    """The weights by other names. The matrices of attention become convolutions of one pixel."""
    found = {}
    for name, tensor in model.state_dict().items():
        is_matrix = ".attentions." in name and tensor.ndim == 2
        for pattern, other in rules.items():
            name = re.sub(pattern, other, name)
        found[name] = tensor[:, :, None, None] if is_matrix else tensor
    return found


INSIDE = {
    r"\.group_norm\.": ".norm.", r"\.to_([qkv])\.": r".\1.", r"\.to_out\.0\.": ".proj_out.",
    r"conv_shortcut": "nin_shortcut", "conv_norm_out": "norm_out", r"(up|down)samplers\.0": r"\1sample",
}  # fmt: skip
TAMING = INSIDE | {
    **{rf"decoder\.up_blocks\.{i}\.": f"decoder.up.{3 - i}." for i in range(4)}, r"down_blocks\.": "down.",
    r"mid_block\.resnets\.0": "mid.block_1", r"mid_block\.resnets\.1": "mid.block_2",
    r"mid_block\.attentions\.0": "mid.attn_1", r"\.resnets\.": ".block.", r"\.attentions\.": ".attn.",
}  # fmt: skip
LLAMAGEN = INSIDE | {
    r"(down|up)_blocks\.": "conv_blocks.", r"mid_block\.resnets\.0": "mid.0", r"mid_block\.resnets\.1": "mid.2",
    r"mid_block\.attentions\.0": "mid.1", r"\.resnets\.": ".res.", r"\.attentions\.": ".attn.",
}  # fmt: skip


@pytest.fixture(scope="module")
def original() -> VQModel:
    return vq_model((32, 32, 64, 64), groups=32)


@pytest.fixture
def taming(original: VQModel, tmp_path: Path) -> Path:
    """A checkpoint of taming-transformers with its config."""
    file = tmp_path / "vqgan" / "last.ckpt"
    file.parent.mkdir()
    weights = other_names(original, TAMING)
    torch.save({"state_dict": {**weights, "loss.discriminator.main.0.weight": torch.ones(3)}, "epoch": 3}, file)
    file.with_name("model.yaml").write_text("model: {params: {n_embed: 50, ddconfig: {resolution: 64, z_channels: 6}}}")
    return file


def convert(*words: object) -> None:
    main(parse(ConvertOptions, [str(word) for word in words]))


@torch.no_grad()
def assert_same_pictures(made: ImageTokenizer, original: VQModel) -> None:
    expected = original(to_float(IMAGES)).sample
    found = made(to_float(IMAGES))
    assert len(found.codes.unique()) > 5
    torch.testing.assert_close(found.images, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("channels", "options", "old_names"),
    [
        ((8, 8, 16, 16), {}, False),
        ((8, 8, 16, 16, 32), {"layers_per_block": 1, "mid_block_add_attention": False}, False),
        ((8, 24), {"latent_channels": 4}, True),  # as many channels as dimensions of the codebook
    ],
)
def test_pictures_are_those_of_diffusers(
    channels: tuple[int, ...], options: dict[str, Any], old_names: bool, tmp_path: Path
) -> None:
    original = vq_model(channels, **options)
    original.save_pretrained(tmp_path)
    if old_names:  # those of diffusers before 0.15, which many published weights have
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        weights = original.state_dict()
        for new, name in old.items():
            weights = {key.replace(f".{new}.", f".{name}."): tensor for key, tensor in weights.items()}
        (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
        torch.save(weights, tmp_path / "diffusion_pytorch_model.bin")
    made, layout = imported(read_foreign(tmp_path), None)
    assert layout == "diffusers"
    assert made.config.backbone.factor == 2 ** (len(channels) - 1)
    assert_same_pictures(made, original)


def test_pictures_are_those_of_taming_transformers(taming: Path, original: VQModel) -> None:
    made, layout = imported(read_foreign(taming), None)
    assert (layout, made.config.image_size) == ("taming-transformers", 64)
    assert_same_pictures(made, original)


@torch.no_grad()
def test_pictures_are_those_of_llamagen(original: VQModel, tmp_path: Path) -> None:
    """It compares vectors and codes after both are scaled to length one."""
    weights = {**other_names(original, LLAMAGEN), "quantize.codebook_used": torch.zeros(9)}
    torch.save({"model": weights, "args": argparse.Namespace(lr=1), "steps": 3}, tmp_path / "vq.pt")
    foreign = read_foreign(tmp_path / "vq.pt")
    assert foreign.left_out == ["args", "steps"]
    made, layout = imported(foreign, 64)
    assert layout == "LlamaGen"
    codebook = F.normalize(original.quantize.embedding.weight, dim=-1)
    z = F.normalize(original.encode(to_float(IMAGES)).latents, dim=1).permute(0, 2, 3, 1)
    codes = torch.cdist(z.flatten(0, 2), codebook).argmin(1).view(z.shape[:3])
    expected = original.decode(codebook[codes].permute(0, 3, 1, 2), force_not_quantize=True).sample
    found = made(to_float(IMAGES))
    assert torch.equal(found.codes, codes)
    assert len(codes.unique()) > 5
    torch.testing.assert_close(found.images, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("with_convs", [True, False])
def test_latents_and_pictures_are_those_of_autoencoder_kl(
    with_convs: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    original = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=(8, 8, 16), norm_num_groups=4, latent_channels=3, sample_size=64, layers_per_block=2,
        scaling_factor=0.5, shift_factor=0.25, use_quant_conv=with_convs, use_post_quant_conv=with_convs,
    ).eval()  # fmt: skip
    original.save_pretrained(tmp_path / "kl")
    convert(tmp_path / "kl", "--out", tmp_path / "imported")
    assert "latents are standardised by the scaling_factor" in capsys.readouterr().out
    made = ImageTokenizer.from_pretrained(tmp_path / "imported")
    mean = original.encode(to_float(IMAGES)).latent_dist.mean
    torch.testing.assert_close(made.latents(IMAGES), (mean - 0.25) * 0.5, rtol=1e-4, atol=1e-4)
    z = mean.permute(0, 2, 3, 1)
    found = made.decoder(made.quantizer.decoded(z))
    torch.testing.assert_close(found, original.decode(mean).sample, rtol=1e-4, atol=1e-4)
    _, _, losses = made.quantizer(made.encoder(to_float(IMAGES)))
    expected = original.encode(to_float(IMAGES)).latent_dist.kl() / mean[0].numel()
    torch.testing.assert_close(losses["kl"], expected.mean(), rtol=1e-4, atol=1e-5)


def test_the_command_writes_a_model_and_says_what_it_left_out(
    taming: Path, tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tokenizer"
    data = ["--data", photos, "--cache", tmp_path / "cache", "--limit", 6]
    convert(taming.parent, "--out", out, *data, "--license", "mit", "--origin", "a *far* place")
    said = capsys.readouterr().out
    assert "left out: 1 tensors loss.*, epoch\n" in said
    assert "latents are standardised by 6 pictures" in said
    model = ImageTokenizer.from_pretrained(out)
    assert model.codes_id in said
    assert model.latent_std.min() > 0
    assert not torch.equal(model.latent_std, torch.ones(4))
    card = (out / "README.md").read_text()
    assert "\nlicense: mit\n" in card
    assert "from a &#42;far&#42; place" in card
    with pytest.raises(BadInput, match="holds files already"):
        convert(taming.parent, "--out", out)


def test_a_token_model_trains_on_its_codes(
    tmp_path: Path,
    parts: list[str],  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    vq_model((4, 8), layers_per_block=1).save_pretrained(tmp_path / "vqmodel")
    convert(tmp_path / "vqmodel", "--image_size", 16, "--out", tmp_path / "imported")
    assert "latents are not standardised" in capsys.readouterr().out
    fit(tmp_path / "run", [*parts, "--tokenizer", str(tmp_path / "imported")])
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text())["grid"] == 8


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Classes by their names in `STAND_INS`, which only pickling can import."""
    found: dict[str, Any] = {}
    for name in STAND_INS:
        module, _, kind = name.rpartition(".")
        if not module.startswith("pytorch_lightning"):
            continue
        found[kind] = type(kind, (dict,) if kind == "AttributeDict" else (), {"__module__": module})
        for package in (module.split(".")[0], module.rpartition(".")[0], module):
            monkeypatch.setitem(sys.modules, package, ModuleType(package))
        setattr(sys.modules[module], kind, found[kind])
    return found


def test_what_lightning_stores_beside_weights_is_not_built(
    lightning: dict[str, Any], taming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = torch.load(taming)
    callback = lightning["EarlyStopping"]()
    callback.patience = 3
    parameters = lightning["AttributeDict"](rate=0.1)
    beside = {"callbacks": {lightning["ModelCheckpoint"]: {"best": 0.5}}, "early": callback, "hyper": parameters}
    torch.save({**values, **beside}, taming)
    for kind in lightning.values():
        monkeypatch.delitem(sys.modules, kind.__module__)
    assert read_foreign(taming).left_out == ["epoch", "callbacks", "early", "hyper"]


class Evil:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused(zipped: bool, tmp_path: Path) -> None:
    file = tmp_path / "evil.ckpt"
    torch.save({"state_dict": Evil(tmp_path / "ran")}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(BadInput, match=rf"evil\.ckpt: names {os.mkdir.__module__}.mkdir, and loading that could run"):
        convert(file, "--out", tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"decoder.extra.weight": torch.ones(1)}, "has an unknown tensor decoder.extra.weight"),
        ({"decoder.conv_in.bias": None}, "lacks the tensor decoder.first.bias"),
        ({"encoder.conv_in.weight": None}, "lacks the tensor encoder.first.weight"),
        ({"quantize.embedding.weight": None}, "lacks the tensor codebook"),
        (
            {"quantize.embedding.weight": torch.ones(3)},
            "quantize.embedding.weight has the shape (3,): must be 2-dimensional",
        ),
        ({"decoder.conv_in.bias": torch.ones(5)}, "has decoder.first.bias of shape (5,) and not (16,)"),
        ({"decoder.conv_in.bias": torch.full((16,), torch.nan)}, "has nan or infinite numbers in decoder.first.bias"),
        ({"encoder.conv_in.weight": torch.ones(())}, "encoder.conv_in.weight has the shape (): must be 4-dimensional"),
        ({"encoder.conv_in.weight": torch.ones(5, 3, 3, 3)}, "8, 16 channels: must be multiples of 5"),
    ],
)
def test_other_tensors_are_refused_by_name(change: dict[str, Tensor | None], said: str, tmp_path: Path) -> None:
    weights = {**vq_model((8, 16)).state_dict(), **change}
    save_file({name: tensor for name, tensor in weights.items() if tensor is not None}, tmp_path / "x.safetensors")
    with pytest.raises(BadInput) as caught:
        imported(read_foreign(tmp_path), 64)
    assert said in str(caught.value)


def test_sources_that_cannot_be_read(tmp_path: Path) -> None:
    def refusal(source: Path = tmp_path, image_size: int | None = 64) -> str:
        with pytest.raises(BadInput) as caught:
            imported(read_foreign(source), image_size)
        return str(caught.value)

    assert "no such file or folder" in refusal(tmp_path / "missing")
    assert "has no weights" in refusal()
    (tmp_path / "a.ckpt").write_bytes(b"PK\x03\x04")
    assert "not a complete checkpoint" in refusal()
    torch.save([1], tmp_path / "a.ckpt")
    assert "has no weights by name" in refusal()
    torch.save({"a": torch.ones(1)}, tmp_path / "a.ckpt")
    assert "not the weights of a known tokenizer" in refusal()
    (tmp_path / "b.ckpt").touch()
    assert "has a.ckpt, b.ckpt: give one of them" in refusal()
    (tmp_path / "c.safetensors").touch()
    assert "not a complete safetensors file" in refusal()
    save_file(vq_model((8, 16)).state_dict(), tmp_path / "c.safetensors")
    assert "give --image_size" in refusal(image_size=None)
    (tmp_path / "config.json").write_text('{"act_fn": "gelu"}')
    assert "act_fn 'gelu': must be silu or swish" in refusal()
