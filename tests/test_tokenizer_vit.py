"""The vision transformers, compared with independent implementations."""

import dataclasses
import itertools
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tokenizer.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from tokenizer.options import TokenizerTrainingConfig
from tokenizer.quantizers import CosineVQConfig
from tokenizer.vit import Attention, Block, Transformer, ViTConfig, rotary_angles, rotated
from training.command_line import parse
from training.errors import BadInput

PRESETS = Path(__file__).parents[1] / "configs" / "tokenizer"
WIDTH, HEADS = 24, 3
CONFIG = ViTConfig(patch_size=4, width=WIDTH, encoder_depth=1, decoder_depth=1, heads=HEADS, pixel_width=5)


def randomized(module: nn.Module) -> nn.Module:
    """Set large random weights, so that differences are visible."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return module


def torch_layer(block: Block) -> nn.TransformerEncoderLayer:
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 4 * WIDTH, dropout=0, activation="gelu", norm_first=True, batch_first=True
    )
    pairs = {
        "self_attn.in_proj_weight": block.attention.qkv.weight,
        "self_attn.in_proj_bias": block.attention.qkv.bias,
        "self_attn.out_proj.weight": block.attention.out.weight,
        "self_attn.out_proj.bias": block.attention.out.bias,
        "linear1.weight": block.mlp[0].weight,
        "linear1.bias": block.mlp[0].bias,
        "linear2.weight": block.mlp[2].weight,
        "linear2.bias": block.mlp[2].bias,
        "norm1.weight": block.norm1.weight,
        "norm1.bias": block.norm1.bias,
        "norm2.weight": block.norm2.weight,
        "norm2.bias": block.norm2.bias,
    }
    layer.load_state_dict({name: tensor.detach() for name, tensor in pairs.items()})
    return layer


def test_attention_agrees_with_torch() -> None:
    attention = randomized(Attention(WIDTH, HEADS))
    reference = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    reference.load_state_dict(
        {
            "in_proj_weight": attention.qkv.weight,
            "in_proj_bias": attention.qkv.bias,
            "out_proj.weight": attention.out.weight,
            "out_proj.bias": attention.out.bias,
        }
    )
    x = torch.randn(2, 7, WIDTH)
    torch.testing.assert_close(attention(x), reference(x, x, x)[0], rtol=1e-5, atol=1e-5)


def test_block_agrees_with_torch() -> None:
    block = randomized(Block(WIDTH, HEADS))
    x = torch.randn(2, 7, WIDTH)
    expected = torch_layer(block).train()(x)  # training mode uses the plain implementation, not the fused one
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)


def test_transformer_adds_row_and_column_embeddings_before_its_blocks() -> None:
    transformer = randomized(Transformer(4, WIDTH, 2, HEADS))
    x = torch.randn(2, 4, 4, WIDTH)
    flat = x.clone()
    for row in range(4):
        for column in range(4):
            flat[:, row, column] += transformer.rows[row, 0] + transformer.columns[0, column]
    flat = flat.reshape(2, 16, WIDTH)
    for block in transformer.blocks:
        flat = torch_layer(block)(flat)
    expected = F.layer_norm(flat, (WIDTH,), transformer.norm.weight, transformer.norm.bias).reshape(2, 4, 4, WIDTH)
    torch.testing.assert_close(transformer(x), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_patch_embedding_equals_a_convolution() -> None:
    encoder = randomized(CONFIG.encoder(12))
    seen = []
    encoder.transformer.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    images = torch.randn(2, 3, 12, 12)
    encoder(images)
    kernel = encoder.embed.weight.view(WIDTH, 3, 4, 4)
    expected = F.conv2d(images, kernel, encoder.embed.bias, stride=4).permute(0, 2, 3, 1)
    torch.testing.assert_close(seen[0], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_pixel_unembedding_equals_a_transposed_convolution() -> None:
    decoder = randomized(CONFIG.decoder(12))
    z = torch.randn(2, 3, 3, WIDTH)
    kernel = decoder.unembed.weight.view(5, 4, 4, WIDTH).permute(3, 0, 1, 2)
    hidden = decoder.transformer(z).permute(0, 3, 1, 2)
    bias = decoder.unembed.bias.view(1, 5, 4, 4).repeat(1, 1, 3, 3)
    pixels = F.conv_transpose2d(hidden, kernel, stride=4) + bias
    torch.testing.assert_close(decoder(z), decoder.head(pixels), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_fewer_rows_use_the_first_row_embeddings(rows: int) -> None:
    transformer = randomized(Transformer(3, WIDTH, 1, HEADS))
    smaller = Transformer(3, WIDTH, 1, HEADS)
    smaller.load_state_dict(transformer.state_dict())
    with torch.no_grad():
        smaller.rows[rows:] = 99
    x = torch.randn(1, rows, 3, WIDTH)
    assert torch.equal(smaller(x), transformer(x))
    assert transformer(x).shape == (1, rows, 3, WIDTH)


def test_rotary_logits_depend_only_on_differences_of_rows_and_columns() -> None:
    """Compared with complex rotations, one pair of positions at a time."""
    h, w, width = 4, 5, 8
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, width, generator=generator)
    angles = rotary_angles(h, w, width, torch.device("cpu"))
    turned = [rotated(one.expand(h * w, width), angles) for one in (q, k)]
    logits = (turned[0] @ turned[1].T).view(h, w, h, w)
    pairs_q, pairs_k = (torch.complex(*one.double().chunk(2)) for one in (q, k))
    speeds = [1, 100**-0.5]
    for row, column, to_row, to_column in itertools.product(range(h), range(w), range(h), range(w)):
        rows, columns = row - to_row, column - to_column
        angle = [rows * speed for speed in speeds] + [columns * speed for speed in speeds]
        turn = torch.tensor([complex(math.cos(one), math.sin(one)) for one in angle], dtype=torch.complex128)
        expected = (pairs_q * turn * pairs_k.conj()).real.sum()
        assert logits[row, column, to_row, to_column].item() == pytest.approx(expected.item(), abs=1e-5)


@torch.no_grad()
def test_rotary_positions_are_relative() -> None:
    """The upper rows of a grid are computed as if they were the lower ones. Learned positions tell them apart."""
    x = torch.randn(1, 2, 3, WIDTH)
    transformer = randomized(Transformer(3, WIDTH, 2, HEADS, rotary=True))
    assert "rows" not in transformer.state_dict()
    assert transformer(x).shape == x.shape
    attention = transformer.blocks[0].attention
    angles = rotary_angles(3, 3, WIDTH // HEADS, torch.device("cpu"))
    flat = x.flatten(1, 2)
    torch.testing.assert_close(attention(flat, angles[:6]), attention(flat, angles[3:]), rtol=1e-4, atol=1e-5)
    swapped = transformer(x.flip(1)).flip(1)
    assert not torch.allclose(swapped, transformer(x), atol=1e-3)


@torch.no_grad()
def test_normalised_queries_and_keys() -> None:
    """Attention does not change when queries and keys grow; each head is normalised alone."""
    attention = randomized(Attention(WIDTH, HEADS, qk_norm=True))
    x = torch.randn(2, 7, WIDTH)
    before = attention(x)
    q, k, v = (one.view(2, 7, HEADS, -1).transpose(1, 2) for one in attention.qkv(x).chunk(3, -1))
    q, k = (one / one.square().mean(-1, keepdim=True).sqrt() for one in (q, k))
    mixed = F.scaled_dot_product_attention(q * attention.norm_q.weight, k * attention.norm_k.weight, v)
    expected = attention.out(mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(before, expected, rtol=1e-4, atol=1e-5)
    attention.qkv.weight[: 2 * WIDTH] *= 50
    attention.qkv.bias[: 2 * WIDTH] *= 50
    torch.testing.assert_close(attention(x), before, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_the_convolutional_stem_sees_beyond_a_patch() -> None:
    """A pixel just outside a patch changes its vector, and one further away than a patch does not."""
    pictures = torch.randn(1, 3, 16, 16).repeat(3, 1, 1, 1)
    pictures[1, :, 3, 5] += 1  # beside the patch at row 4, column 4
    pictures[2, :, 15, 15] += 1
    for stem, sees in (("patch", False), ("conv", True)):
        torch.manual_seed(0)
        made = dataclasses.replace(CONFIG, stem=stem).encoder(16).embed(pictures)[:, 1, 1]
        assert made.shape == (3, WIDTH)
        assert torch.equal(made[0], made[1]) is not sees
        assert torch.equal(made[0], made[2])


COMBINATIONS = itertools.product(
    ({}, {"decoder_width": 32, "decoder_heads": 2}), ({}, {"positions": "rotary"}), ({}, {"qk_norm": True}),
    ({}, {"stem": "conv"}),
)  # fmt: skip


@pytest.mark.parametrize("options", [a | b | c | d for a, b, c, d in COMBINATIONS], ids=str)
def test_every_combination_encodes_and_decodes(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    backbone = dataclasses.replace(CONFIG, **options)
    quantizer = CosineVQConfig(size=20, dim=4)
    model = ImageTokenizer(ImageTokenizerConfig(image_size=12, backbone=backbone, quantizer=quantizer))
    pictures = torch.randint(0, 256, (2, 3, 12, 12), dtype=torch.uint8)
    made = model.train()(pictures / 127.5 - 1)
    made.images.square().mean().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    codes = model.eval().encode(pictures)
    for rows in (1, 2, 3):
        assert model.decode(codes[:, :rows]).shape == (2, 3, 4 * rows, 12)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.decoder(torch.randn(2, 2, 3, WIDTH)).isfinite().all()


def test_what_the_options_change() -> None:
    """A larger decoder keeps the codes, another stem keeps the pixels of given codes."""
    keys = {}
    for name, options in {
        "": {},
        "wide": {"decoder_width": 48},
        "stem": {"stem": "conv"},
        "qk": {"qk_norm": True},
    }.items():
        torch.manual_seed(0)
        config = ImageTokenizerConfig(
            image_size=8, backbone=dataclasses.replace(CONFIG, **options), quantizer=CosineVQConfig(size=20, dim=4)
        )
        model = ImageTokenizer(config)
        for tensor in model.state_dict().values():
            tensor.fill_(1)
        keys[name] = model.codes_id, model.pixels_id
    codes, pixels = keys[""]
    assert keys["wide"][0] == codes != keys["stem"][0]
    assert keys["stem"][1] == pixels != keys["wide"][1]
    assert keys["qk"][0] != codes
    assert keys["qk"][1] != pixels


# The sizes of ViT-VQGAN (table 1) and of Parti's second stage: width, depth and heads of one transformer.
SIZES = {"small": (512, 8, 8), "base": (768, 12, 12), "large": (1280, 32, 16)}


@pytest.mark.parametrize("size", SIZES)
def test_parameters_of_the_published_sizes(size: str) -> None:
    width, depth, heads = SIZES[size]
    config = ViTConfig(
        width=512, heads=8, decoder_width=width, decoder_depth=depth, decoder_heads=heads, pixel_width=32
    )
    with torch.device("meta"):
        decoder = config.decoder(256)
    block = 12 * width**2 + 13 * width  # 4 matrices of attention, 8 of the MLP; 9 biases, two norms
    widen = 0 if width == 512 else 513 * width
    head = 2048 * (width + 1) + 9 * 32 * 32 + 32 + 9 * 32 * 3 + 3
    assert sum(p.numel() for p in decoder.parameters()) == depth * block + 2 * 32 * width + 2 * width + widen + head


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"decoder_width": 0}, "ViTConfig.decoder_width is 0: must be from 1"),
        ({"decoder_heads": 0}, "ViTConfig.decoder_heads is 0: must be from 1"),
        (
            {"decoder_width": 30, "decoder_heads": 4},
            "ViTConfig.decoder_width is 30: must be a multiple of decoder_heads 4",
        ),
        ({"decoder_width": 30}, "ViTConfig.decoder_width is 30: must be a multiple of decoder_heads 4"),
        (
            {"width": 24, "positions": "rotary"},
            "ViTConfig.width is 24: must be a multiple of heads 4 times 4, for rotary",
        ),
        ({"patch_size": 1, "stem": "conv"}, "ViTConfig.patch_size is 1: must be 2, 4, 8 or another power of 2"),
        (
            {"patch_size": 6, "stem": "conv"},
            "ViTConfig.patch_size is 6: must be 2, 4, 8 or another power of 2 for the stem 'conv'",
        ),
    ],
)
def test_impossible_shapes(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as error:
        ViTConfig(**options)
    assert said in str(error.value)


@pytest.mark.parametrize("file", sorted(PRESETS.glob("*.yaml")), ids=lambda file: file.stem)
def test_presets_have_the_size_that_they_state(file: Path) -> None:
    config = parse(TokenizerTrainingConfig, ["--config", file.stem, "--out", "x"])
    with torch.device("meta"):
        model = ImageTokenizer(config.model)
    said = file.read_text()
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    if stated := re.search(r"([\d.]+) M parameters", said):
        assert f"{millions:{'.1f' if '.' in stated[1] else '.0f'}}" == stated[1]
    if tokens := re.search(r"(\d+) tokens of (\d+) codes", said):
        assert (config.model.grid**2, config.model.quantizer.size) == (int(tokens[1]), int(tokens[2]))
    assert file.stem.startswith("debug") or (stated and tokens)
