"""The image-token decoder laid out for a CPU.

Decoding multiplies a few rows by large matrices, so a step costs what it takes to read the weights and to call the
operators. Here weights are arranged as the processor likes them, in 16 bits where that loses nothing, and a block is
as few operators as it can be: three products with `x` are one, norms and attention are written out. What is left of
the time between operators is Python's, so the blocks are traced once and run without it.

Dimension names: B pictures, T new tokens, H heads, K head width, S keys, D width.
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
    """`model` with a packed decoder, to draw with. All the rest is shared with it, and it is left as it was."""
    twin = copy.copy(model)
    twin._modules = {**model._modules, "decoder": PackedDecoder(model.decoder, dtype)}
    return twin


def packed_dtypes() -> list[torch.dtype]:
    """What products can be packed in here, the best first; nothing where this build of torch or this processor cannot.

    Of float16 only the weights are, products and sums are of float32, so that weights which were bfloat16, as all that
    are shipped, give what they give in float32; and blocks of it can be traced. Where a processor computes in
    bfloat16, that is faster only for large models at many pictures a time.
    """
    onednn = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]
    here = {
        torch.float16: "fbgemm" in torch.backends.quantized.supported_engines,
        torch.bfloat16: onednn and has_bf16("cpu"),
        torch.float32: onednn,
    }
    return [dtype for dtype, there in here.items() if there]


class PackedDecoder(nn.Module):
    """Does what `ImageTokenDecoder` does, within the rounding of `dtype`."""

    def __init__(self, decoder: ImageTokenDecoder, dtype: torch.dtype) -> None:
        """`decoder` is in eval mode and float32."""
        super().__init__()
        self.decoder = decoder
        self.blocks = Traced(PackedBlocks([PackedBlock(block, dtype) for block in decoder.blocks]))
        self.norm = FusedRMSNorm(decoder.norm)
        self.head = packed_linear(decoder.head.weight, dtype)

    def forward(self, tokens: Tensor, positions: Positions, text: Text, cache: KVCache | None = None) -> Tensor:
        """As `ImageTokenDecoder`, which reads the captions itself: once a drawing, in float32."""
        if text.states is not None or cache is None:
            return self.decoder(tokens, positions, text, cache)
        x = self.decoder.embed(tokens) + self.decoder.positions(positions.at)
        mask, heads, none = positions.mask(cache.positions), cache.heads, x.new_empty(0)
        at, own_bias = (x.new_empty(positions.until or 0), none) if mask is None else (positions.at, _bias(mask, heads))
        null = cache.null if cache.guided else [none] * cache.depth
        arguments = (x, at, cache.keys, cache.values, own_bias, cache.text, _bias(text.mask, heads), null)
        x = self.blocks((mask is None, cache.guided), arguments)
        return self.decoder.mask_impossible(self.head(self.norm(x)), positions.at)


class PackedBlocks(nn.Module):
    """The blocks, as a function of tensors alone."""

    def __init__(self, blocks: list["PackedBlock"]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(
        self,
        x: Tensor,
        at: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
        own_bias: Tensor,
        text: list[Tensor],
        text_bias: Tensor,
        null: list[Tensor],
    ) -> Tensor:
        """(B, T, D) -> (B, T, D), appending to each block's `keys` and `values`, (B, H, positions, K).

        Args:
            x: new tokens.
            at: their positions (B, T) int64; or where all go together, one a picture, any tensor (position + 1,): what
                matters is its size, which can be traced where a number cannot.
            keys: of the tokens so far.
            values: as the keys.
            own_bias: of self-attention's logits (B * H, T, until): 0, or -inf where it may not; or nothing.
            text: keys and values of the captions, (B, H, S, K) each, block by block.
            text_bias: as `own_bias`, of cross-attention, (B * H, 1, S).
            null: what the blocks read in the null caption, (1, 1, D), for the second half of `x`; or nothing.
        """
        for i, block in enumerate(self.blocks):
            x = block(x, at, keys[i], values[i], own_bias, *text[2 * i : 2 * i + 2], text_bias, null[i])
        return x


class PackedBlock(nn.Module):
    """A `DecoderBlock`."""

    def __init__(self, block: DecoderBlock, dtype: torch.dtype) -> None:
        super().__init__()
        own, cross, mlp = block.attention, block.cross, block.mlp
        self.heads = own.heads
        self.query_key_value = packed_linear(torch.cat([own.query.weight, own.key_value.weight]), dtype)
        self.out = packed_linear(own.out.weight, dtype)
        self.cross_query = packed_linear(cross.query.weight, dtype)
        self.cross_out = packed_linear(cross.out.weight, dtype)
        self.mlp_in, self.mlp_out = (packed_linear(mlp.get_parameter(f"{i}.weight"), dtype) for i in (0, 2))
        self.norm1, self.norm2, self.norm3 = map(FusedRMSNorm, (block.norm1, block.norm2, block.norm3))
        # Queries take in the factor of the attention's logits.
        scale = 1 / math.sqrt(own.query_norm.normalized_shape[0])
        self.query_key_norm = FusedRMSNorm(own.query_norm, own.key_norm, scales=(scale, 1.0))
        self.cross_query_norm = FusedRMSNorm(cross.query_norm, scales=(scale,))

    def forward(
        self,
        x: Tensor,
        at: Tensor,
        keys: Tensor,
        values: Tensor,
        own_bias: Tensor,
        text_keys: Tensor,
        text_values: Tensor,
        text_bias: Tensor,
        null: Tensor,
    ) -> Tensor:
        """As `PackedBlocks`, of one block."""
        batch, t, _ = x.shape
        made = self.query_key_value(self.norm1(x)).view(batch, t, 3, self.heads, -1)
        query, key = self.query_key_norm(made[:, :, :2]).transpose(1, 3).unbind(2)  # (B, H, T, K) each
        value = made[:, :, 2].transpose(1, 2)
        if at.ndim == 1:
            until = at.shape[0]
            keys[:, :, until - 1 : until], values[:, :, until - 1 : until] = key, value
            keys, values = keys[:, :, :until], values[:, :, :until]
        else:
            where, until = at[:, None, :, None].expand_as(key), own_bias.shape[2]
            keys, values = keys.scatter_(2, where, key)[:, :, :until], values.scatter_(2, where, value)[:, :, :until]
        x = x + self.out(_attend(query, keys, values, own_bias))
        read = x[: text_keys.shape[0]]
        query = self.cross_query_norm(self.cross_query(self.norm2(read)).view(read.shape[0], t, 1, self.heads, -1))
        y = self.cross_out(_attend(query.transpose(1, 3).squeeze(2), text_keys, text_values, text_bias))
        x = x + (torch.cat([y, null.expand_as(y)]) if null.ndim > 1 else y)
        return x + self.mlp_out(F.gelu(self.mlp_in(self.norm3(x))))


class FusedRMSNorm(nn.Module):
    """One or more RMSNorms side by side. Their formula, x / sqrt(sum x^2 + n eps) * (sqrt(n) gain), is four operators
    where the layer's is ten, which takes longer than its arithmetic."""

    def __init__(self, *norms: RMSNorm, scales: tuple[float, ...] = (1.0,)) -> None:
        """`scales`: a factor for what each norm returns."""
        super().__init__()
        (width,) = norms[0].normalized_shape
        gains = [norm.weight.detach() * (math.sqrt(width) * scale) for norm, scale in zip(norms, scales, strict=True)]
        self.gain = gains[0] if len(gains) == 1 else torch.stack(gains)[:, None]
        self.floor = torch.tensor(math.sqrt(width * (norms[0].eps or 0.0)))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width), or (..., norms, H, width) -> the same shape."""
        return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self.floor) * self.gain


def packed_linear(weight: Tensor, dtype: torch.dtype) -> nn.Module:
    """Multiplies float32 (..., in) by a matrix (out, in) that is held, packed, in `dtype`: a linear layer."""
    return HalfLinear(weight) if dtype == torch.float16 else OneDNNLinear(weight, dtype)


class HalfLinear(nn.Module):
    """Weights in float16, products and sums in float32, by fbgemm."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.packed = torch.ops.quantized.linear_prepack_fp16(weight.detach().float(), None)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) float32 -> (..., out) float32."""
        return torch.ops.quantized.linear_dynamic_fp16(x, self.packed)


class OneDNNLinear(nn.Module):
    """Weights, and what is multiplied by them, in `dtype`, by oneDNN."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype), 2)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) float32 -> (..., out) float32."""
        return torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), self.packed, None, "none", [], "").float()


def _bias(mask: Tensor, heads: int) -> Tensor:
    """Bool (B, 1, T, S), True where attention is allowed -> 0 or -inf, (B * H, T, S) float32."""
    return mask.float().log().expand(-1, heads, -1, -1).flatten(0, 1)


def _attend(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Scaled queries (B, H, T, K) on (B, H, S, K) -> (B, T, D). Written out: the fused kernel is made for many queries,
    and with one it takes twice as long."""
    batch, heads, t, _ = query.shape
    query, keys, values = query.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1)
    logits = torch.bmm(query, keys.mT) if bias.ndim == 1 else torch.baddbmm(bias, query, keys.mT)
    return torch.bmm(logits.softmax(-1), values).view(batch, heads, t, -1).transpose(1, 2).flatten(2)
