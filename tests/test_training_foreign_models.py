"""Untrusted models: their configs allocate no memory, and damaged weights are reported in one line."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import add_diffusion, diffusion_model, save_bundle

from diffusion.model import DiffusionModel
from diffusion.unet import UNetConfig
from sampling.pipeline import load
from seq2seq.model import TokenModel
from tokenizer.image_tokenizer import ImageTokenizer
from tokenizer.text import TextTokenizer
from training.errors import BadInput

MODELS: dict[str, Any] = {
    "autoregressive": TokenModel, "tokenizer": ImageTokenizer, "diffusion": DiffusionModel, "text": TextTokenizer,
}  # fmt: skip


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return add_diffusion(save_bundle(tmp_path / "bundle"))


@pytest.mark.parametrize(
    ("part", "claim", "said"),
    [
        ("autoregressive", {"width": 2**20}, "width is 1048576: must be from 1 to 65536"),
        ("autoregressive", {"width": 2**16}, "does not fit its config.json"),
        ("autoregressive", {"mlp_width": 2**18}, "does not fit its config.json"),
        ("autoregressive", {"encoder_depth": 10**7}, "encoder_depth is 10000000: must be from 1 to 1000"),
        ("autoregressive", {"decoder_depth": 300}, "does not fit its config.json: lacks decoder.blocks.10"),
        ("autoregressive", {"text_vocab_size": 2**24}, "has encoder.embed.weight of shape"),
        ("autoregressive", {"text_vocab_size": -1}, "text_vocab_size is -1"),
        ("autoregressive", {"codebook_size": 2**24}, "does not fit its config.json"),
        ("autoregressive", {"grid": 10**9}, "grid is 1000000000: must be from 1 to 1024"),
        ("tokenizer", {"backbone": {"width": 2**16}}, "does not fit its config.json"),
        ("tokenizer", {"backbone": {"decoder_depth": 10**7}}, "decoder_depth is 10000000"),
        ("tokenizer", {"image_size": 2**14}, "does not fit its config.json"),
        ("tokenizer", {"quantizer": {"size": 2**24}}, "does not fit its config.json"),
        ("diffusion", {"channels": 2**16}, "does not fit its config.json"),
        ("diffusion", {"dit": {"depth": 10**7}}, "DiTConfig.depth is 10000000"),
        ("diffusion", {"process": {"steps": 10**9}}, "ProcessConfig.steps is 1000000000: must be from 2 to 100000"),
        ("diffusion", {"text": {"vocab_size": 2**24}}, "does not fit its config.json"),
        ("diffusion", {"denoiser": "unet", "unet": {"layers": 10**7}}, "UNetConfig.layers is 10000000"),
        ("diffusion", {"denoiser": "unet", "unet": {"channels": [32] * 10**5}}, "UNetConfig.channels is"),
        ("text", {"max_length": 10**9}, "max_length is 1000000000: must be from 2 to 65536"),
    ],
)
def test_a_config_alone_allocates_no_memory(bundle: Path, part: str, claim: dict[str, Any], said: str) -> None:
    """A config of a few bytes with `width: 2**20` used up all memory before its weights were read."""
    file = bundle / part / "config.json"
    values = json.loads(file.read_text())
    for name, value in claim.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) else value
    file.write_text(json.dumps(values))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadInput) as error:
        MODELS[part].from_pretrained(bundle / part)
    assert said in str(error.value)
    assert str(bundle) in str(error.value)
    assert len(str(error.value)) <= 500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17  # KiB: 128 MiB


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("latent_mean", float("nan")), ("latent_mean", float("inf")),
        ("latent_std", float("nan")), ("latent_std", 0.0), ("latent_std", -1.0),
    ],
)  # fmt: skip
def test_damaged_constants_of_latents(bundle: Path, name: str, value: float) -> None:
    file = bundle / "tokenizer" / "model.safetensors"
    tensors = load_file(file)
    tensors[name][1] = value
    save_file(tensors, file)
    with pytest.raises(BadInput, match=r"latent_std must be above 0|has nan or infinite numbers"):
        load(bundle)


def test_a_damaged_sentencepiece_model(bundle: Path) -> None:
    file = bundle / "text" / "spiece.model"
    for content in (b"", b"\xff" * 100, file.read_bytes()[:100]):
        file.write_bytes(content)
        with pytest.raises(BadInput, match="not a complete SentencePiece model"):
            load(bundle)


@pytest.mark.parametrize("denoiser", ["dit", "unet"])
def test_buffers_that_no_file_has_are_right_after_loading(denoiser: str, tmp_path: Path) -> None:
    """A model built on the meta device would keep such buffers there."""
    model = diffusion_model(denoiser=denoiser, unet=UNetConfig(channels=(32,), layers=1))
    model.save_pretrained(tmp_path)
    again = DiffusionModel.from_pretrained(tmp_path)
    assert torch.equal(again.process.alpha, model.process.alpha)
    x, text = torch.randn(2, *model.latent_shape), torch.tensor([[5, 6, 1], [7, 1, 0]])
    assert torch.equal(again(x, torch.tensor([3.0, 50.0]), text), model(x, torch.tensor([3.0, 50.0]), text))
