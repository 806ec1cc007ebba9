"""Scaled dot-product attention, by the arithmetic that is fastest where it runs.

Dimension names: B batch, H heads, T queries, S keys, K head width.

`torch`'s own operator wins everywhere but in one place: training in bfloat16 on a CPU. There its backward pass, made
for long sequences, takes several times as long as the three products written out. Milliseconds of one call with 4 heads
of width 64, forward and backward, on two cores with AVX-512, bf16 and AMX, torch 2.13 (`python -m training.bench`):

|  B |    T |    S | operator | written out |
|---:|-----:|-----:|---------:|------------:|
| 32 |   16 |   16 |     16.1 |         3.2 |
| 32 |   65 |   16 |     31.0 |         7.2 |
| 32 |   64 |   64 |     35.6 |        10.0 |
| 32 |   65 |   65 |     53.1 |        11.3 |
|  8 |  257 |  257 |     48.0 |        41.0 |
|  4 |  513 |  513 |     51.8 |        41.9 |
|  2 | 1025 | 1025 |     69.4 |        82.7 |

In float32 the operator is the faster one throughout (14.6 against 15.6 ms at 65), and where no gradient is wanted too.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

LONGEST_WRITTEN_OUT = 512
"""Keys up to which the products are written out; beyond, the scores (B, H, T, S) outgrow the caches and the memory."""


def attention(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(K)) v (arXiv 1706.03762, eq. 1).

    Args:
        q: queries (B, H, T, K), floating point.
        k: keys (B, H, S, K), of the same dtype.
        v: values (B, H, S, K), of the same dtype.
        mask: bool, True where attention is allowed, broadcast to (B, H, T, S); at least one key for every query.
        causal: query t attends on keys 0..t alone; T is S, and there is no mask.

    Returns:
        (B, H, T, K). The two ways differ by rounding.
    """
    if learns_in_bf16_on_a_cpu(q) and k.shape[-2] <= LONGEST_WRITTEN_OUT:
        return written_out(q, k, v, mask=mask, causal=causal)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def learns_in_bf16_on_a_cpu(q: Tensor) -> bool:
    """Whether queries are of a pass whose gradient is wanted, in bfloat16, on a CPU."""
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad


def written_out(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """As `attention`, product by product."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (B, H, T, S)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, -torch.inf)
    return torch.softmax(scores, dim=-1) @ v
