"""The image-token decoder laid out for a CPU.

Decoding multiplies a few rows by large matrices, so a step costs what it takes to read the weights and to call the
operators. Here weights are arranged as the processor likes them, in 16 bits where that loses nothing, and a block is
as few operators as it can be: three products with `x` are one, norms and attention are written out.

Dimension names: B pictures, T new tokens, H heads, K head width, S keys, D width.
"""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seq2seq.cache import KVCache
from seq2seq.layers import DecoderBlock, KeysValues, Past, RMSNorm
from seq2seq.model import ImageTokenDecoder, TokenModel
from training.precision import has_bf16

Product = Callable[[Tensor], Tensor]
"""A linear layer without bias: (..., in) float32 -> (..., out) float32."""


def packed(model: TokenModel, dtype: torch.dtype) -> TokenModel:
    """`model` with a packed decoder, to draw with. All the rest is shared with it, and it is left as it was."""
    twin = copy.copy(model)
    twin._modules = {**model._modules, "decoder": PackedDecoder(model.decoder, dtype)}
    return twin


def packed_dtypes() -> list[torch.dtype]:
    """What products can be packed in here, the best first; nothing where this build of torch or this processor cannot.

    bfloat16 where the processor computes in it. Else float16: only weights are held in it, products and sums are of
    float32, so that weights which were bfloat16, as all that are shipped, give what they give in float32.
    """
    onednn = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]
    here = {
        torch.bfloat16: onednn and has_bf16("cpu"),
        torch.float16: "fbgemm" in torch.backends.quantized.supported_engines,
        torch.float32: onednn,
    }
    return [dtype for dtype, there in here.items() if there]


class PackedDecoder(nn.Module):
    """Does what `ImageTokenDecoder.extend` does, within the rounding of `dtype`."""

    def __init__(self, decoder: ImageTokenDecoder, dtype: torch.dtype) -> None:
        """`decoder` is in eval mode and float32."""
        super().__init__()
        self.config, self.rows, self.columns, self.embed = decoder.config, decoder.rows, decoder.columns, decoder.embed
        self.cache = decoder.cache
        self.blocks = [PackedBlock(block, dtype) for block in decoder.blocks]
        self.norm = Unit(decoder.norm)
        self.head = product(decoder.head.weight, dtype)
        self.positions, self.rule_out = decoder.positions, decoder.rule_out

    def extend(self, tokens: Tensor, positions: int | Tensor, cache: KVCache) -> Tensor:
        """Tokens (B, T), each the one before its position -> logits (B, T, K + 1); appends to the cache."""
        t = positions if isinstance(positions, Tensor) else torch.tensor([positions])
        x = self.embed(tokens) + self.positions(t)
        heads = self.config.heads
        text_bias = _bias(cache.text_mask, heads)
        pasts = cache.at(positions)
        own_bias = None if pasts[0].mask is None else _bias(pasts[0].mask, heads)
        for block, text, past, null in zip(self.blocks, cache.text, pasts, cache.nulls, strict=True):
            x = block(x, text, text_bias, past, own_bias, null)
        return self.rule_out(self.head(self.norm(x)), t)


class PackedBlock:
    """A `DecoderBlock`."""

    def __init__(self, block: DecoderBlock, dtype: torch.dtype) -> None:
        own, cross, mlp = block.attention, block.cross, block.mlp
        self.heads = own.heads
        self.query_key_value = product(torch.cat([own.query.weight, own.key_value.weight]), dtype)
        self.out = product(own.out.weight, dtype)
        self.cross_query = product(cross.query.weight, dtype)
        self.cross_out = product(cross.out.weight, dtype)
        self.mlp_in, self.mlp_out = (product(mlp.get_parameter(f"{i}.weight"), dtype) for i in (0, 2))
        self.norm1, self.norm2, self.norm3 = Unit(block.norm1), Unit(block.norm2), Unit(block.norm3)
        # Queries take in the factor of the attention's logits.
        scale = 1 / math.sqrt(own.query_norm.normalized_shape[0])
        self.query_key_norm = Unit(own.query_norm, own.key_norm, scales=(scale, 1.0))
        self.cross_query_norm = Unit(cross.query_norm, scales=(scale,))

    def __call__(
        self, x: Tensor, text: KeysValues, text_bias: Tensor, past: Past, own_bias: Tensor | None, null: Tensor | None
    ) -> Tensor:
        """As the block's; biases (B * H, 1 or T, S) of attention's logits are 0, or -inf where it may not."""
        batch, t, _ = x.shape
        made = self.query_key_value(self.norm1(x)).view(batch, t, 3, self.heads, -1)
        query, key = self.query_key_norm(made[:, :, :2]).transpose(1, 3).unbind(2)  # (B, H, T, K) each
        keys, values = past.append((key, made[:, :, 2].transpose(1, 2)))
        x = x + self.out(_attend(query, keys, values, own_bias))
        said = x if null is None else x[: batch // 2]
        query = self.cross_query_norm(self.cross_query(self.norm2(said)).view(len(said), t, 1, self.heads, -1))
        y = self.cross_out(_attend(query.transpose(1, 3).squeeze(2), *text, text_bias))
        x = x + (y if null is None else torch.cat([y, null.expand_as(y)]))
        return x + self.mlp_out(F.gelu(self.mlp_in(self.norm3(x))))


class Unit:
    """One or more RMSNorms side by side. Their formula, x / sqrt(sum x^2 + n eps) * (sqrt(n) gain), is four operators
    where the layer's is ten, which takes longer than its arithmetic."""

    def __init__(self, *norms: RMSNorm, scales: tuple[float, ...] = (1.0,)) -> None:
        """`scales`: a factor for what each norm returns."""
        (width,) = norms[0].normalized_shape
        gains = [norm.weight.detach() * (math.sqrt(width) * scale) for norm, scale in zip(norms, scales, strict=True)]
        self.gain = gains[0] if len(gains) == 1 else torch.stack(gains)[:, None]
        self.floor = torch.tensor(math.sqrt(width * (norms[0].eps or 0.0)))

    def __call__(self, x: Tensor) -> Tensor:
        """(..., width), or (..., norms, H, width) -> the same shape."""
        return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self.floor) * self.gain


def product(weight: Tensor, dtype: torch.dtype) -> Product:
    """Multiplies by a (out, in) matrix that is held, packed, in `dtype`."""
    weight = weight.detach().float()
    if dtype == torch.float16:
        in_half = torch.ops.quantized.linear_prepack_fp16(weight, None)
        multiply = torch.ops.quantized.linear_dynamic_fp16.default
        return lambda x: multiply(x, in_half)
    arranged = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype), 2)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    if dtype == torch.float32:
        return lambda x: multiply(x, arranged, None, "none", [], "")
    return lambda x: multiply(x.to(dtype), arranged, None, "none", [], "").float()


def _bias(mask: Tensor, heads: int) -> Tensor:
    """Bool (B, 1, T, S), True where attention is allowed -> 0 or -inf, (B * H, T, S) float32."""
    return mask.float().log().expand(-1, heads, -1, -1).flatten(0, 1)


def _attend(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """Scaled queries (B, H, T, K) on (B, H, S, K) -> (B, T, D). Written out: the fused kernel is made for many queries,
    and with one it takes twice as long."""
    batch, heads, t, _ = query.shape
    query, keys, values = query.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1)
    logits = torch.bmm(query, keys.mT) if bias is None else torch.baddbmm(bias, query, keys.mT)
    return torch.bmm(logits.softmax(-1), values).view(batch, heads, t, -1).transpose(1, 2).flatten(2)
