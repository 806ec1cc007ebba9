"""The vision transformers, compared with independent implementations."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tokenizer.vit import Attention, Block, Decoder, Encoder, Transformer

WIDTH, HEADS = 24, 3


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
    encoder = randomized(Encoder(12, 4, WIDTH, 1, HEADS))
    seen = []
    encoder.transformer.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    images = torch.randn(2, 3, 12, 12)
    encoder(images)
    kernel = encoder.embed.weight.view(WIDTH, 3, 4, 4)
    expected = F.conv2d(images, kernel, encoder.embed.bias, stride=4).permute(0, 2, 3, 1)
    torch.testing.assert_close(seen[0], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_pixel_unembedding_equals_a_transposed_convolution() -> None:
    decoder = randomized(Decoder(12, 4, WIDTH, 1, HEADS, 5))
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
