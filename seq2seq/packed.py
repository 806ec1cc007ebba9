"""The image-token decoder for fast sampling on a CPU: the same computation, with packed weights and fewer operators.

`packed(model, packing)` returns a model that takes and returns what `model` does, with a `PackedDecoder`. Only new
tokens go through its packed layers; captions are read by the decoder that it was made from.

A step multiplies a few rows by large matrices, so its time goes into reading weights and calling operators. Therefore:

- `packed_linear` keeps weights in the layout that the CPU reads fastest, in 16 bits where that loses next to nothing;
- `packing` says which layout that is, by the number of rows;
- `PackedBlock` calls few operators: one linear layer makes queries, keys and values, `FusedRMSNorm` replaces several
  norms, and attention is written out;
- `Traced` runs everything without Python between operators.

Dimension names: B pictures, T new tokens, H heads, G heads of keys, K head width, S keys, D width, V tokens to choose
from.
"""

import copy
import functools
import math
import threading
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seq2seq.cache import KVCache, Positions
from seq2seq.layers import DecoderBlock, RMSNorm, Text
from seq2seq.model import ImageTokenDecoder, TokenModel
from seq2seq.traced import Traced
from training.precision import has_bf16

Packing = Mapping[int, torch.dtype]
"""What weights are packed in, by the number of rows from which that is so: `{1: torch.float16, 16: torch.bfloat16}`. A
row is a new token of a picture; with guidance each picture counts twice."""

BF16_ROWS = 16
"""From this many rows on, bfloat16 is faster than float16: see `packing`."""


def packed(model: TokenModel, packing: Packing) -> TokenModel:
    """Return a copy of `model` with a packed decoder, for sampling. `model` is unchanged; they share all the rest."""
    twin = copy.copy(model)
    twin._modules = {**model._modules, "decoder": PackedDecoder(model.decoder, packing)}
    return twin


def packing(dtype: torch.dtype) -> dict[int, torch.dtype]:
    """Return the fastest packing that computes at least as precisely as `dtype`; empty if torch or the CPU has none.

    In float16 only weights are 16-bit: inputs, products and sums are float32. Weights that were bfloat16, as all
    shipped ones are, keep their values, but for those below 6e-5, which are rounded to multiples of 6e-8: 158 of the
    shipped decoder's 5.2 M change. In bfloat16, inputs and outputs are rounded too: that is for models in bfloat16
    only.

    The rule follows `sampling/benchmarks/linears-one-core-avx512.json`, measured on a core with AVX-512, bf16 and AMX
    (`python -m sampling.bench_linears`): up to 8 rows, float16 and bfloat16 take about the same time, because both read
    as many bytes; at 16, 32, 64 and 128 rows bfloat16 takes 61, 55, 50 and 40 % of it. In float32 and as products of
    inputs split into bfloat16 terms, layers took longer than in float16, or within 4 % of it.
    """
    onednn = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]
    fbgemm = "fbgemm" in torch.backends.quantized.supported_engines
    found = {}
    if fbgemm or onednn:
        found[1] = torch.float16 if fbgemm else torch.float32
    if dtype == torch.bfloat16 and onednn and has_bf16("cpu"):
        found[BF16_ROWS if fbgemm else 1] = torch.bfloat16
    return found


def dtype_at(rows: int, packing: Packing) -> torch.dtype:
    """What weights are packed in for that many rows."""
    return packing[max(first for first in packing if first <= max(rows, 1))]


def named(packing: Packing) -> str:
    """A packing in words: `float16, from 16 rows bfloat16`."""
    names = [f"from {rows} rows " * (rows > 1) + str(dtype).removeprefix("torch.") for rows, dtype in packing.items()]
    return ", ".join(names)


class PackedDecoder(nn.Module):
    """Computes what `ImageTokenDecoder` computes, within the rounding of its packing. Threads may share it."""

    def __init__(self, decoder: ImageTokenDecoder, packing: Packing) -> None:
        """`decoder` must be in eval mode, in float32 or bfloat16; attention is computed in its dtype.

        Weights are packed when they are first needed, once for each dtype that is.
        """
        super().__init__()
        self.decoder, self.packing = decoder, packing
        self.groups = decoder.config.heads // (decoder.config.key_heads or decoder.config.heads)
        self.layers: dict[torch.dtype, Traced] = {}
        self._lock = threading.Lock()

    def forward(self, tokens: Tensor, positions: Positions, text: Text, cache: KVCache | None = None) -> Tensor:
        """Take and return what `ImageTokenDecoder` does. Captions are read by that decoder: once, in its dtype."""
        if text.states is not None or cache is None:
            return self.decoder(tokens, positions, text, cache)
        # Only tensors can be traced. So an empty tensor stands for None, and a tensor's size for a number.
        none, mask = torch.empty(0), positions.mask(cache.positions)
        until = torch.empty(positions.until or 0)
        self_bias = none if mask is None else _bias(mask, cache.heads, self.groups)
        cross_bias = _bias(text.mask, cache.heads, self.groups)
        null = cache.null if cache.guided else [none] * cache.depth
        arguments = (
            tokens, positions.at, until, cache.keys, cache.values, self_bias, cache.text, cross_bias, null
        )  # fmt: skip
        return self._layers_for(tokens.numel())((mask is None, cache.guided), arguments)

    def _layers_for(self, rows: int) -> Traced:
        dtype = dtype_at(rows, self.packing)
        with self._lock:
            if dtype not in self.layers:
                self.layers[dtype] = Traced(PackedLayers(self.decoder, dtype))
            return self.layers[dtype]


class PackedLayers(nn.Module):
    """All layers of the decoder, as a function of tensors and lists of tensors, so that it can be traced."""

    def __init__(self, decoder: ImageTokenDecoder, dtype: torch.dtype) -> None:
        super().__init__()
        length, columns, vocabulary = decoder.config.length, decoder.config.columns, decoder.head.out_features
        self.embed = decoder.embed
        self.blocks = nn.ModuleList(PackedBlock(block, dtype) for block in decoder.blocks)
        self.norm = FusedRMSNorm(decoder.norm)
        self.head = packed_linear(decoder.head.weight, dtype)
        at = torch.arange(length + 1)
        self.positions = decoder.positions(at).detach().float()  # (T, D)
        # what is impossible differs between three kinds of positions: inside a row, after a row, after the last row
        kinds = torch.tensor([0, columns, length])
        self.impossible = decoder.mask_impossible(torch.zeros(3, 1, vocabulary), kinds[:, None])[:, 0] == -torch.inf
        self.which = ((at > 0) & (at % columns == 0)).long() + (at == length).long()  # the kind of each position (T,)

    def forward(
        self,
        tokens: Tensor,
        at: Tensor,
        until: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
        self_bias: Tensor,
        text: list[Tensor],
        cross_bias: Tensor,
        null: list[Tensor],
    ) -> Tensor:
        """Tokens (B, T) -> logits (B, T, V). Adds them to the cache: to each block's `keys` and `values`, in place.

        Args:
            tokens: int64, each the token before its position.
            at: their positions (B, T) int64.
            until: any tensor of size (position + 1,), if T is 1 and all positions are equal.
            keys: each block's cached keys, (B, G, positions, K).
            values: each block's cached values, (B, G, positions, K).
            self_bias: added to self-attention's logits, (B * G, H / G * T, until): 0, or -inf where attention is not
                allowed; empty where all positions are equal.
            text: caption keys and values, (B, G, S, K) each: keys of block 0, values of block 0, keys of block 1, ...
            cross_bias: as `self_bias`, for cross-attention, (B * G, H / G or 1, S).
            null: each block's output of cross-attention to the null caption, (1, 1, D), for the second half of the
                batch; empty without guidance.
        """
        x = self.embed(tokens).float() + self.positions[at]
        for i, block in enumerate(self.blocks):
            x = block(x, at, until, keys[i], values[i], self_bias, *text[2 * i : 2 * i + 2], cross_bias, null[i])
        return self.head(self.norm(x)).masked_fill(self.impossible[self.which[at]], -torch.inf)


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
        self.mlp_in = packed_linear(mlp.get_parameter("0.weight"), dtype, gelu=True)
        self.mlp_out = packed_linear(mlp.get_parameter("2.weight"), dtype)
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
        until: Tensor,
        keys: Tensor,
        values: Tensor,
        self_bias: Tensor,
        text_keys: Tensor,
        text_values: Tensor,
        cross_bias: Tensor,
        null: Tensor,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D) float32; for the rest see `PackedLayers.forward`."""
        x = x + self._self_attention(self.norm1(x), at, until, keys, values, self_bias)
        with_caption = x[: text_keys.shape[0]]  # not `len`, which tracing would make a constant
        y = self._cross_attention(self.norm2(with_caption), text_keys, text_values, cross_bias)
        x = x + (torch.cat([y, null.expand_as(y)]) if null.ndim > 1 else y)
        return x + self.mlp_out(self.mlp_in(self.norm3(x)))

    def _self_attention(
        self, x: Tensor, at: Tensor, until: Tensor, keys: Tensor, values: Tensor, bias: Tensor
    ) -> Tensor:
        batch, t, _ = x.shape
        made = self.query_key_value(x).view(batch, t, self.heads + 2 * self.key_heads, -1).transpose(1, 2)
        query_key, value = made.split((self.heads + self.key_heads, self.key_heads), 1)
        query, key = self.query_key_norm(query_key).split((self.heads, self.key_heads), 1)
        if bias.ndim == 1:
            end = until.shape[0]
            keys[:, :, end - 1 : end], values[:, :, end - 1 : end] = key, value
        else:
            end, index = bias.shape[2], at[:, None, :, None].expand_as(key)
            keys.scatter_(2, index, key.to(keys.dtype))
            values.scatter_(2, index, value.to(values.dtype))
        return self.out(_attend(query, keys[:, :, :end], values[:, :, :end], bias))

    def _cross_attention(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        batch, t, _ = x.shape
        query = self.cross_query_norm(self.cross_query(x).view(batch, t, self.heads, -1)).transpose(1, 2)
        return self.cross_out(_attend(query, keys, values, bias))


class FusedRMSNorm(nn.Module):
    """One or more RMSNorms in one, by the formula x / sqrt(sum x^2 + n eps) * (sqrt(n) gain).

    It calls four operators. `RMSNorm` calls ten, and calling them takes longer than their arithmetic.
    """

    def __init__(
        self,
        *norms: RMSNorm,
        scales: tuple[float, ...] = (1.0,),
        heads: tuple[int, ...] = (),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Build it for inputs in `dtype`.

        `scales`: a factor for the output of each norm. `heads`: for how many heads each of several norms is.
        """
        super().__init__()
        (width,) = norms[0].normalized_shape
        gains = [
            norm.weight.detach().float() * (math.sqrt(width) * scale) for norm, scale in zip(norms, scales, strict=True)
        ]
        of_all = torch.cat([gain.expand(n, 1, -1) for gain, n in zip(gains, heads, strict=True)]) if heads else gains[0]
        self.gain = of_all.to(dtype)
        self.floor = torch.tensor(math.sqrt(width * (norms[0].eps or 0.0)))

    def forward(self, x: Tensor) -> Tensor:
        """(..., n) -> (..., n); for several norms (..., heads of all, T, n) -> the same."""
        return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self.floor) * self.gain


def packed_linear(weight: Tensor, dtype: torch.dtype, *, gelu: bool = False) -> nn.Module:
    """Build a linear layer, (..., in) -> float32 (..., out), that keeps `weight` (out, in) packed in `dtype`.

    With `gelu` it returns GELU of its output, for another packed layer.
    """
    return HalfLinear(weight, gelu) if dtype == torch.float16 else OneDNNLinear(weight, dtype, gelu)


class HalfLinear(nn.Module):
    """A linear layer by fbgemm: weights in float16; inputs, products and sums in float32."""

    def __init__(self, weight: Tensor, gelu: bool) -> None:
        super().__init__()
        self.gelu, self.packed = gelu, torch.ops.quantized.linear_prepack_fp16(weight.detach().float(), None)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out) float32."""
        y = torch.ops.quantized.linear_dynamic_fp16(x.float(), self.packed)
        return F.gelu(y) if self.gelu else y


class OneDNNLinear(nn.Module):
    """A linear layer by oneDNN: weights, inputs and outputs in `dtype`, sums in float32."""

    def __init__(self, weight: Tensor, dtype: torch.dtype, gelu: bool) -> None:
        super().__init__()
        self.dtype, self.activation = dtype, "gelu" if gelu else "none"
        self.opaque = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype), BF16_ROWS)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out) float32; with GELU in `dtype`."""
        y = _scripted_linear()(x.to(self.dtype), self.opaque, self.activation)
        return y if self.activation == "gelu" else y.float()


def _linear(x: Tensor, weight: Tensor, activation: str) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, activation, [], "none")


@functools.cache
def _scripted_linear() -> Callable[[Tensor, Tensor, str], Tensor]:
    """`_linear` as one operator for a trace, which cannot record its list of scalars."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(_linear) if hasattr(torch.jit, "script") else _linear


def _bias(mask: Tensor, heads: int, groups: int) -> Tensor:
    """Turn a mask, bool (B, 1, T, S), into a bias for logits, float32: 0 where True, else -inf.

    It is (B * G, H / G * T, S) for G `heads` of keys, each for `groups` heads of queries; or, for T = 1, (B * G, 1, S).
    """
    bias = mask.float().log().expand(-1, heads, -1, -1)
    return (bias if groups == 1 or mask.shape[2] == 1 else bias.repeat(1, 1, groups, 1)).flatten(0, 1)


def _attend(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Attend with scaled queries (B, H, T, K) to keys and values (B, G, S, K); return (B, T, D).

    In float32 it is written out: with one query, torch's fused kernel takes longer. In bfloat16 it is the faster one.
    """
    batch, heads, t, width = query.shape
    groups = keys.shape[1]
    if keys.dtype == torch.bfloat16:
        query = query.to(keys.dtype).reshape(batch, groups, -1, width)  # heads with the same keys, one below the other
        mask = None if bias.ndim == 1 else bias.view(-1, groups, *bias.shape[1:]).to(keys.dtype)
        attended = F.scaled_dot_product_attention(query, keys, values, mask, scale=1.0)
    else:
        query = query.reshape(batch * groups, -1, width)
        keys, values = keys.flatten(0, 1), values.flatten(0, 1)
        logits = torch.bmm(query, keys.mT) if bias.ndim == 1 else torch.baddbmm(bias, query, keys.mT)
        attended = torch.bmm(logits.softmax(-1), values)
    return attended.view(batch, heads, t, width).transpose(1, 2).flatten(2)
