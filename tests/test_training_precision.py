"""bfloat16 is used only where the hardware supports it."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from training import precision
from training.precision import has_bf16, tf32_settings, uses_bf16, without_tf32


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


def allowed() -> list[bool]:
    """Whether TensorFloat-32 is allowed, for convolutions and for matrix products."""
    return [getattr(part, name) in (True, "tf32") for part, name, _ in tf32_settings()]


@pytest.fixture
def all_allowed() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")  # as Accelerate does in a compiled run in float32
    assert allowed() == [True, True]
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("all_allowed")
def test_tf32_is_off_inside_alone() -> None:
    """On a GPU, torch rounds the inputs of float32 convolutions to it by default, and of matrix products if allowed."""
    assert without_tf32()(allowed)() == [False, False]
    with pytest.raises(ZeroDivisionError), without_tf32():
        raise ZeroDivisionError
    assert allowed() == [True, True]
    assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.usefixtures("all_allowed")
def test_a_thread_that_ends_first_leaves_tf32_off_for_the_other() -> None:
    """It was on again for the other, and then off for good."""
    one, other = without_tf32(), without_tf32()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert allowed() == [False, False]
    other.__exit__(None, None, None)
    assert allowed() == [True, True]


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch has only the older settings")
def test_a_program_may_use_the_newer_settings() -> None:
    """Drawing failed, on a CPU too: torch refuses to read the older settings once the newer ones differ from them."""
    conv, matmul = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = conv.fp32_precision, matmul.fp32_precision
    conv.fp32_precision, matmul.fp32_precision = "ieee", "tf32"
    try:
        with without_tf32():
            assert allowed() == [False, False]
        assert (conv.fp32_precision, matmul.fp32_precision) == ("ieee", "tf32")
    finally:
        conv.fp32_precision, matmul.fp32_precision = before
