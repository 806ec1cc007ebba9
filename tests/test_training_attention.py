"""Both ways to compute attention give the same result."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from training.attention import MAX_KEYS, attention, attention_by_products

PADDING = torch.arange(9) < torch.tensor([[9], [4]])[:, None, None]  # (B, 1, 1, S)
HEADS = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(1)) < 0.7
HEADS |= torch.eye(9, dtype=torch.bool)


def formula(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    """Eq. 1 of the paper, one element at a time, in float64."""
    scores = torch.einsum("bhtk,bhsk->bhts", q.double(), k.double()) / math.sqrt(q.shape[-1])
    weights = torch.where(allowed, scores.exp(), 0.0)
    return torch.einsum("bhts,bhsk->bhtk", weights / weights.sum(-1, keepdim=True), v.double())


def heads(dtype: torch.dtype, length: int = 9) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, length, 16, generator=generator).to(dtype).requires_grad_() for _ in range(3)]


@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 0.02), (torch.float32, 1e-5)])
@pytest.mark.parametrize(
    ("mask", "causal"), [(None, False), (None, True), (PADDING, False), (HEADS, False)], ids=str
)  # fmt: skip
def test_values_and_gradients_match_the_formula(
    dtype: torch.dtype, error: float, mask: Tensor | None, causal: bool
) -> None:
    allowed = torch.ones(9, 9, dtype=torch.bool).tril() if causal else torch.tensor(True) if mask is None else mask
    ours, theirs = heads(dtype), heads(dtype)
    weight = torch.randn(2, 3, 9, 16, generator=torch.Generator().manual_seed(2))
    for inputs, made in ((ours, attention(*ours, mask=mask, causal=causal)), (theirs, formula(*theirs, allowed))):
        (made * weight).sum().backward()  # type: ignore[no-untyped-call]
        inputs.append(made)
    for mine, true in zip(ours, theirs, strict=True):
        mine, true = (mine, true) if mine.grad_fn else (mine.grad, true.grad)  # the inputs' gradients, then the result
        torch.testing.assert_close(mine.double(), true.double(), atol=error * true.abs().max().item(), rtol=0)


@pytest.mark.parametrize(
    ("dtype", "learning", "length", "expected"),
    [
        (torch.bfloat16, True, 9, True),
        (torch.float32, True, 9, False),
        (torch.bfloat16, False, 9, False),
        (torch.bfloat16, True, MAX_KEYS + 1, False),
    ],
)
def test_matrix_products_are_used_where_they_are_faster(
    dtype: torch.dtype, learning: bool, length: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 training on a CPU, for short sequences. Sampling and float32 use torch's operator, to the bit."""
    asked: list[str] = []
    operator = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *a, **k: asked.append("operator") or operator(*a, **k)
    )
    with torch.set_grad_enabled(learning):
        q, k, v = (tensor if learning else tensor.detach() for tensor in heads(dtype, length))
        made = attention(q, k, v)
    assert asked == ([] if expected else ["operator"])
    other = attention_by_products(q, k, v)
    torch.testing.assert_close(made, other, atol=0.02 if dtype == torch.bfloat16 else 1e-5, rtol=0)


def test_a_block_under_autocast_uses_matrix_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries must arrive in bfloat16. A norm that returned float32 would select the slow operator."""
    from seq2seq.layers import DecoderBlock, Text

    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *_, **__: pytest.fail("not written out"))
    block = DecoderBlock(32, 2, 64, 0.0)
    with torch.autocast("cpu", torch.bfloat16):
        text = Text(torch.ones(2, 1, 1, 5, dtype=torch.bool), torch.randn(2, 5, 32))
        block(torch.randn(2, 9, 32), text).sum().backward()
