"""The image-token decoder for fast sampling on a CPU: the same computation, with packed weights and fewer operators.

`packed(model, dtype)` returns a model that takes and returns what `model` does, with a `PackedDecoder`. Only new tokens
go through its packed blocks; captions are read by the decoder that it was made from.

A step multiplies a few rows by large matrices, so its time goes into reading weights and calling operators. Therefore:

- `packed_linear` keeps weights in the layout that the CPU reads fastest, in 16 bits where that loses nothing;
- `PackedBlock` calls few operators: one linear layer makes queries, keys and values, `FusedRMSNorm` replaces several
  norms, and attention is written out;
- `Traced` runs the blocks without Python between their operators.

Dimension names: B pictures, T new tokens, H heads, G heads of keys, K head width, S keys, D width.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seq2seq.cache import KVCache, Positions
from seq2seq.layers import DecoderBlock, RMSNorm, Text
from seq2seq.model import ImageTokenDecoder, TokenModel
from seq2seq.traced import Traced
from training.precision import has_bf16


def packed(model: TokenModel, dtype: torch.dtype) -> TokenModel:
    """Return a copy of `model` with a packed decoder, for sampling. `model` is unchanged; they share all the rest."""
    twin = copy.copy(model)
    twin._modules = {**model._modules, "decoder": PackedDecoder(model.decoder, dtype)}
    return twin


def packed_dtypes() -> list[torch.dtype]:
    """Return the dtypes that weights can be packed in here, the best first; none if torch or the CPU supports none.

    In float16 only weights are 16-bit: inputs, products and sums are float32. So weights that were bfloat16, as all
    shipped ones are, give the same results as in float32, and their blocks can be traced. Where the CPU computes in
    bfloat16, that is faster only for large models with many pictures at a time.
    """
    onednn = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]
    supported = {
        torch.float16: "fbgemm" in torch.backends.quantized.supported_engines,
        torch.bfloat16: onednn and has_bf16("cpu"),
        torch.float32: onednn,
    }
    return [dtype for dtype, is_supported in supported.items() if is_supported]


class PackedDecoder(nn.Module):
    """Computes what `ImageTokenDecoder` computes, within the rounding of `dtype`."""

    def __init__(self, decoder: ImageTokenDecoder, dtype: torch.dtype) -> None:
        """`decoder` must be in eval mode and float32."""
        super().__init__()
        self.decoder = decoder
        self.groups = decoder.config.heads // (decoder.config.key_heads or decoder.config.heads)
        self.blocks = Traced(PackedBlocks([PackedBlock(block, dtype) for block in decoder.blocks]))
        self.norm = FusedRMSNorm(decoder.norm)
        self.head = packed_linear(decoder.head.weight, dtype)

    def forward(self, tokens: Tensor, positions: Positions, text: Text, cache: KVCache | None = None) -> Tensor:
        """Take and return what `ImageTokenDecoder` does. Captions are read by that decoder: once, in float32."""
        if text.states is not None or cache is None:
            return self.decoder(tokens, positions, text, cache)
        x = self.decoder.embed(tokens) + self.decoder.positions(positions.at)
        # Only tensors can be traced. So an empty tensor stands for None, and a tensor's size for a number.
        none, mask = x.new_empty(0), positions.mask(cache.positions)
        if mask is None:
            at, self_bias = x.new_empty(positions.until or 0), none
        else:
            at, self_bias = positions.at, _bias(mask, cache.heads, self.groups)
        null = cache.null if cache.guided else [none] * cache.depth
        cross_bias = _bias(text.mask, cache.heads, self.groups)
        arguments = (x, at, cache.keys, cache.values, self_bias, cache.text, cross_bias, null)
        x = self.blocks((mask is None, cache.guided), arguments)
        return self.decoder.mask_impossible(self.head(self.norm(x)), positions.at)


class PackedBlocks(nn.Module):
    """All blocks, as a function of tensors and lists of tensors, so that it can be traced."""

    def __init__(self, blocks: list["PackedBlock"]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(
        self,
        x: Tensor,
        at: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
        self_bias: Tensor,
        text: list[Tensor],
        cross_bias: Tensor,
        null: list[Tensor],
    ) -> Tensor:
        """(B, T, D) -> (B, T, D). Adds the new tokens to the cache: to each block's `keys` and `values`, in place.

        Args:
            x: new tokens.
            at: their positions (B, T) int64. If T is 1 and all positions are equal, any tensor of size (position + 1,).
            keys: each block's cached keys, (B, G, positions, K).
            values: each block's cached values, (B, G, positions, K).
            self_bias: added to self-attention's logits, (B * G, H / G * T, until): 0, or -inf where attention is not
                allowed; empty where all is allowed.
            text: caption keys and values, (B, G, S, K) each: keys of block 0, values of block 0, keys of block 1, ...
            cross_bias: as `self_bias`, for cross-attention, (B * G, H / G or 1, S).
            null: each block's output of cross-attention to the null caption, (1, 1, D), for the second half of `x`;
                empty without guidance.
        """
        for i, block in enumerate(self.blocks):
            x = block(x, at, keys[i], values[i], self_bias, *text[2 * i : 2 * i + 2], cross_bias, null[i])
        return x


class PackedBlock(nn.Module):
    """Computes what `DecoderBlock` computes."""

    def __init__(self, block: DecoderBlock, dtype: torch.dtype) -> None:
        super().__init__()
        own, cross, mlp = block.attention, block.cross, block.mlp
        self.heads, self.key_heads = own.heads, own.key_heads
        self.query_key_value = packed_linear(torch.cat([own.query.weight, own.key_value.weight]), dtype)
        self.out = packed_linear(own.out.weight, dtype)
        self.cross_query = packed_linear(cross.query.weight, dtype)
        self.cross_out = packed_linear(cross.out.weight, dtype)
        self.mlp_in, self.mlp_out = (packed_linear(mlp.get_parameter(f"{i}.weight"), dtype) for i in (0, 2))
        self.norm1, self.norm2, self.norm3 = map(FusedRMSNorm, (block.norm1, block.norm2, block.norm3))
        scale = 1 / math.sqrt(own.query_norm.normalized_shape[0])  # of attention logits: the norm multiplies by it
        self.query_key_norm = FusedRMSNorm(
            own.query_norm, own.key_norm, scales=(scale, 1.0), heads=(own.heads, own.key_heads)
        )
        self.cross_query_norm = FusedRMSNorm(cross.query_norm, scales=(scale,))

    def forward(
        self,
        x: Tensor,
        at: Tensor,
        keys: Tensor,
        values: Tensor,
        self_bias: Tensor,
        text_keys: Tensor,
        text_values: Tensor,
        cross_bias: Tensor,
        null: Tensor,
    ) -> Tensor:
        """Take and return what `PackedBlocks.forward` does, for one block."""
        x = x + self._self_attention(self.norm1(x), at, keys, values, self_bias)
        with_caption = x[: text_keys.shape[0]]  # not `len`, which tracing would make a constant
        y = self._cross_attention(self.norm2(with_caption), text_keys, text_values, cross_bias)
        x = x + (torch.cat([y, null.expand_as(y)]) if null.ndim > 1 else y)
        return x + self.mlp_out(F.gelu(self.mlp_in(self.norm3(x))))

    def _self_attention(self, x: Tensor, at: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        batch, t, _ = x.shape
        made = self.query_key_value(x).view(batch, t, self.heads + 2 * self.key_heads, -1).transpose(1, 2)
        query_key, value = made.split((self.heads + self.key_heads, self.key_heads), 1)
        query, key = self.query_key_norm(query_key).split((self.heads, self.key_heads), 1)
        if at.ndim == 1:
            until = at.shape[0]
            keys[:, :, until - 1 : until], values[:, :, until - 1 : until] = key, value
        else:
            until, index = bias.shape[2], at[:, None, :, None].expand_as(key)
            keys.scatter_(2, index, key)
            values.scatter_(2, index, value)
        return self.out(_attend(query, keys[:, :, :until], values[:, :, :until], bias))

    def _cross_attention(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        batch, t, _ = x.shape
        query = self.cross_query_norm(self.cross_query(x).view(batch, t, self.heads, -1)).transpose(1, 2)
        return self.cross_out(_attend(query, keys, values, bias))


class FusedRMSNorm(nn.Module):
    """One or more RMSNorms in one, by the formula x / sqrt(sum x^2 + n eps) * (sqrt(n) gain).

    It calls four operators. `RMSNorm` calls ten, and calling them takes longer than their arithmetic.
    """

    def __init__(self, *norms: RMSNorm, scales: tuple[float, ...] = (1.0,), heads: tuple[int, ...] = ()) -> None:
        """`scales`: a factor for the output of each norm. `heads`: for how many heads each of several norms is."""
        super().__init__()
        (width,) = norms[0].normalized_shape
        gains = [norm.weight.detach() * (math.sqrt(width) * scale) for norm, scale in zip(norms, scales, strict=True)]
        self.gain = (
            torch.cat([gain.expand(n, 1, -1) for gain, n in zip(gains, heads, strict=True)]) if heads else gains[0]
        )
        self.floor = torch.tensor(math.sqrt(width * (norms[0].eps or 0.0)))

    def forward(self, x: Tensor) -> Tensor:
        """(..., n) -> (..., n); for several norms (..., heads of all, T, n) -> the same."""
        return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self.floor) * self.gain


def packed_linear(weight: Tensor, dtype: torch.dtype) -> nn.Module:
    """Build a linear layer, float32 (..., in) -> (..., out), that keeps `weight` (out, in) packed in `dtype`."""
    return HalfLinear(weight) if dtype == torch.float16 else OneDNNLinear(weight, dtype)


class HalfLinear(nn.Module):
    """A linear layer by fbgemm: weights in float16; inputs, products and sums in float32."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.packed = torch.ops.quantized.linear_prepack_fp16(weight.detach().float(), None)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) float32 -> (..., out) float32."""
        return torch.ops.quantized.linear_dynamic_fp16(x, self.packed)


class OneDNNLinear(nn.Module):
    """A linear layer by oneDNN: weights and inputs in `dtype`. It cannot be traced."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype), 2)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) float32 -> (..., out) float32."""
        return torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), self.packed, None, "none", [], "").float()


def _bias(mask: Tensor, heads: int, groups: int) -> Tensor:
    """Turn a mask, bool (B, 1, T, S), into a bias for logits, float32: 0 where True, else -inf.

    It is (B * G, H / G * T, S) for G `heads` of keys, each for `groups` heads of queries; or, for T = 1, (B * G, 1, S).
    """
    bias = mask.float().log().expand(-1, heads, -1, -1)
    return (bias if groups == 1 or mask.shape[2] == 1 else bias.repeat(1, 1, groups, 1)).flatten(0, 1)


def _attend(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Attend with scaled queries (B, H, T, K) to keys and values (B, G, S, K); return (B, T, D).

    It is written out because torch's fused kernel is made for many queries: with one, it takes twice as long.
    """
    batch, heads, t, _ = query.shape
    query = query.reshape(batch * keys.shape[1], -1, query.shape[3])  # heads with the same keys, one below the other
    keys, values = keys.flatten(0, 1), values.flatten(0, 1)
    logits = torch.bmm(query, keys.mT) if bias.ndim == 1 else torch.baddbmm(bias, query, keys.mT)
    return torch.bmm(logits.softmax(-1), values).view(batch, heads, t, -1).transpose(1, 2).flatten(2)
