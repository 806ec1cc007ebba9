"""bfloat16 is used only where the hardware supports it."""

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
    """AVX2 emulates it with 0.3 GFLOP/s, against 80 in float32. Training was as good as stopped."""
    monkeypatch.setattr(torch, "cpu", SimpleNamespace(get_capabilities=lambda: capabilities))
    assert has_bf16("cpu") == expected
