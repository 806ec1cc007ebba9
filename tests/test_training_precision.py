"""Precision by what the hardware computes in."""

from types import SimpleNamespace

import pytest
import torch

from training.precision import has_bf16


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx2": True}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"bf16": True}, True)],
)
def test_a_cpu_without_bfloat16_gets_none(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: bool
) -> None:
    """On AVX2 it is emulated: 0.3 GFLOP/s against 80 in float32, and a trainer that asked for it stood still."""
    monkeypatch.setattr(torch, "cpu", SimpleNamespace(get_capabilities=lambda: capabilities))
    assert has_bf16("cpu") == expected
