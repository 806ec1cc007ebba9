"""bfloat16 is used only where the hardware supports it."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from training import precision
from training.precision import has_bf16, uses_bf16, without_tf32


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


def test_what_torch_does_not_know_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 2.8 cannot say what a processor has. Of Apple's GPUs only some have bfloat16."""
    monkeypatch.setattr(torch, "cpu", SimpleNamespace())
    assert not has_bf16("cpu")
    assert not has_bf16("mps")


def test_a_run_in_float32_uses_no_bfloat16_beside_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The perceptual loss and Muon did with `--precision no` too, where the hardware has it, and no log said so."""
    monkeypatch.setattr(precision, "has_bf16", lambda device_type: device_type == "cpu")
    try:
        AcceleratorState._reset_state(reset_partial_state=True)
        assert uses_bf16("cpu")  # outside of runs
        for chosen, expected in (("bf16", True), ("no", False)):
            Accelerator(mixed_precision=chosen, cpu=True)
            assert (uses_bf16("cpu"), uses_bf16("mps")) == (expected, False)
            AcceleratorState._reset_state(reset_partial_state=True)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@without_tf32()
def allowed_inside() -> bool:
    return torch.backends.cudnn.allow_tf32


def test_tf32_is_off_inside_alone() -> None:
    """On a GPU, torch rounds the inputs of float32 convolutions to it by default."""
    before = torch.backends.cudnn.allow_tf32
    assert not allowed_inside()
    with pytest.raises(ZeroDivisionError), without_tf32():
        raise ZeroDivisionError
    assert torch.backends.cudnn.allow_tf32 == before
