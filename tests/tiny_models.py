"""Models of a few thousand weights, for tests."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.dit import DiTConfig
from diffusion.model import DiffusionModel, DiffusionModelConfig
from diffusion.process import ProcessConfig
from diffusion.text import TextConfig
from sampling.pipeline import Bundle
from seq2seq.model import TokenModel, TokenModelConfig
from tokenizer.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from tokenizer.quantizers import CosineVQConfig
from tokenizer.text import PAD, TextTokenizer, TextTokenizerConfig
from tokenizer.upsampler import Upsampler, UpsamplerConfig
from tokenizer.vit import ViTConfig
from training.files import write_json
from training.strict_json import read_json

TOKENS = TokenModelConfig(
    width=32, mlp_width=64, heads=4, encoder_depth=2, decoder_depth=3, text_vocab_size=50, text_length=9,
    codebook_size=20, grid=3,
)  # fmt: skip

IMAGES = ImageTokenizerConfig(
    image_size=12,
    backbone=ViTConfig(patch_size=4, width=16, encoder_depth=1, decoder_depth=1, heads=2, pixel_width=4),
    quantizer=CosineVQConfig(size=20, dim=4),
)


def token_model(config: TokenModelConfig = TOKENS, seed: int = 0) -> TokenModel:
    """A model with weights far larger than at the start of training, so that differences are visible."""
    torch.manual_seed(seed)
    model = TokenModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def captions(batch: int, config: TokenModelConfig = TOKENS) -> Tensor:
    """Caption ids (B, S) int64: captions of length 3, 4, 5, ..., then padding."""
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(4, config.text_vocab_size, (batch, config.text_length), generator=generator)
    for row, length in zip(text, range(3, 3 + batch), strict=True):
        row[length:] = PAD
    return text


def text_tokenizer() -> TextTokenizer:
    """A text tokenizer that is trained on two captions."""
    return TextTokenizer.train(["a noto emoji of a fox", "a twemoji emoji of a cat"], 300, TextTokenizerConfig())


def save_bundle(folder: Path, seed: int = 0) -> Path:
    """Write a complete bundle of untrained models, the token model of its own `seed`; return its folder."""
    torch.manual_seed(0)
    text, tokenizer = text_tokenizer(), ImageTokenizer(IMAGES)
    config = TokenModelConfig(
        width=32, mlp_width=64, heads=2, encoder_depth=1, decoder_depth=2, text_vocab_size=text.vocab_size,
        codebook_size=IMAGES.quantizer.size, grid=IMAGES.grid, codes_id=tokenizer.codes_id, text_id=text.text_id,
    )  # fmt: skip
    bundle = Bundle(text=text, tokenizer=tokenizer, models={"autoregressive": token_model(config, seed)})
    text.save_pretrained(folder / "text")
    bundle.tokenizer.save_pretrained(folder / "tokenizer")
    bundle.models["autoregressive"].save_pretrained(folder / "autoregressive")
    write_json(folder / "bundle.json", {"version": 1, "parts": ["text", "tokenizer", "autoregressive"]})
    return folder


def save_upsampler(folder: Path, scale: int = 4) -> Upsampler:
    """Write an upsampler that is not a bicubic enlargement, because it is no longer untrained; return it."""
    torch.manual_seed(0)
    model = Upsampler(UpsamplerConfig(scale=scale, width=4, groups=1, blocks=1)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return model


def diffusion_model(process: ProcessConfig | None = None, seed: int = 0, **fields: Any) -> DiffusionModel:
    """A model for latents of `IMAGES` and captions of 300 ids. Its weights are larger than at the start of training."""
    torch.manual_seed(seed)
    config = DiffusionModelConfig(
        width=32, dit=DiTConfig(mlp_width=64, heads=2, depth=2), process=process or ProcessConfig(steps=100),
        text=TextConfig(width=32, mlp_width=64, heads=2, depth=1, vocab_size=text_tokenizer().vocab_size),
        channels=IMAGES.quantizer.dim, grid=IMAGES.grid, **fields,
    )  # fmt: skip
    model = DiffusionModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return model


def save_text_encoder(folder: Path) -> None:
    """Write a BERT of `transformers` with states of width 16, which knows the words `a` and `fox`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "fox": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    shape = BertConfig(vocab_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertModel(shape).save_pretrained(folder)


def add_diffusion(folder: Path, process: ProcessConfig | None = None) -> Path:
    """Add an untrained diffusion model to the bundle in `folder`; return it."""
    text = TextTokenizer.from_pretrained(folder / "text")
    tokenizer = ImageTokenizer.from_pretrained(folder / "tokenizer")
    model = diffusion_model(process, latents_id=tokenizer.latents_id, text_id=text.text_id)
    model.save_pretrained(folder / "diffusion")
    index = read_json(folder / "bundle.json")
    write_json(folder / "bundle.json", {**index, "parts": [*index["parts"], "diffusion"]})
    return folder


def add_upsampler(folder: Path) -> Path:
    """Add an upsampler to the bundle in `folder`; return it."""
    save_upsampler(folder / "upsampler")
    index = read_json(folder / "bundle.json")
    write_json(folder / "bundle.json", {**index, "parts": [*index["parts"], "upsampler"]})
    return folder
