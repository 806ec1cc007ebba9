"""Scaled dot-product attention, computed in the way that is fastest on the device.

Dimension names: B batch, H heads, T queries, S keys, K head width.

`torch`'s own operator is fastest with one exception: training in bfloat16 on a CPU. Its backward pass there is made for
long sequences. For short ones, plain matrix products are several times as fast. The table gives milliseconds per call,
forward and backward, with 4 heads of width 64, on two cores with AVX-512, bf16 and AMX, torch 2.13 (`python -m
training.bench`):

|  B |    T |    S | operator | matrix products |
|---:|-----:|-----:|---------:|----------------:|
| 32 |   16 |   16 |     16.1 |             3.2 |
| 32 |   65 |   16 |     31.0 |             7.2 |
| 32 |   64 |   64 |     35.6 |            10.0 |
| 32 |   65 |   65 |     53.1 |            11.3 |
|  8 |  257 |  257 |     48.0 |            41.0 |
|  4 |  513 |  513 |     51.8 |            41.9 |
|  2 | 1025 | 1025 |     69.4 |            82.7 |

In float32 the operator is always the faster one (14.6 against 15.6 ms at 65), and so it is without gradients.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_KEYS = 512
"""Most keys for plain matrix products. With more, the scores (B, H, T, S) outgrow the caches and the memory."""


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False, groups: int = 1
) -> Tensor:
    """Computes softmax(q k^T / sqrt(K)) v (arXiv 1706.03762, eq. 1).

    Args:
        q: queries (B, H, T, K), floating point.
        k: keys (B, H / groups, S, K), of the same dtype.
        v: values, as `k`.
        mask: bool, True where attention is allowed, broadcast to (B, H, T, S). Every query needs at least one key.
        causal: query t attends to keys 0..t only. Needs T = S and no mask.
        groups: consecutive heads of queries that share a head of keys and values (arXiv 2305.13245).

    Returns:
        (B, H, T, K). The two ways to compute it differ by rounding.
    """
    if trains_in_bf16_on_cpu(q) and k.shape[-2] <= MAX_KEYS:
        if groups > 1:
            k, v = (heads.repeat_interleave(groups, dim=1) for heads in (k, v))
        return attention_by_products(q, k, v, mask=mask, causal=causal)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=groups > 1)


def trains_in_bf16_on_cpu(q: Tensor) -> bool:
    """Whether the queries belong to a forward pass in bfloat16 on a CPU that needs gradients."""
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad


def attention_by_products(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """`attention` as plain matrix products and a softmax."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (B, H, T, S)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, -torch.inf)
    return torch.softmax(scores, dim=-1) @ v
