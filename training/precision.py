"""In which precision a device computes: bfloat16, float32, or TensorFloat-32."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def has_bf16(device_type: str) -> bool:
    """Whether devices of this type multiply bfloat16 matrices in hardware.

    Otherwise the products are emulated. On a CPU with only AVX2 that is 270 times slower than float32.
    """
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == "cpu":
        return any(cpu_abilities().get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return device_type != "mps"  # not all of Apple's GPUs have it, and some versions of Accelerate refuse it there


def uses_bf16(device_type: str) -> bool:
    """Whether to use bfloat16 for what a run computes beside its model, such as features from a frozen network.

    So it is where the hardware has it, unless the run's precision is `no`.
    """
    from accelerate.state import AcceleratorState, is_initialized  # it takes long to import

    wanted = not is_initialized() or AcceleratorState().mixed_precision != "no"
    return wanted and has_bf16(device_type)


_found: list[list[Any]] = []
"""The settings as each running block of `without_tf32` found them. Whichever ends takes the last ones, so that the last
to end restores those before the first."""
_found_lock = threading.Lock()


@contextmanager
def without_tf32() -> Iterator[None]:
    """Inside the block, or in a function that it decorates, float32 is computed in float32. Blocks may overlap.

    On a CUDA device, convolutions and matrix products otherwise round their inputs to TensorFloat-32, which has as few
    bits as float16, where that is allowed. Torch's default is to allow it for convolutions; Accelerate allows it for
    matrix products too, if a run in float32 is compiled. That is enough for training, but it changes codes.
    """
    settings = tf32_settings()
    with _found_lock:
        _found.append([getattr(part, name) for part, name, _ in settings])
        for part, name, off in settings:
            setattr(part, name, off)
    try:
        yield
    finally:
        with _found_lock:
            for (part, name, _), value in zip(settings, _found.pop(), strict=True):
                setattr(part, name, value)


def tf32_settings() -> list[tuple[Any, str, Any]]:
    """Torch's settings of TensorFloat-32: where each is, its name, and the value that forbids it.

    They are the newer ones where torch has them: once a program has set these, reading the older ones is an error.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    if hasattr(cudnn, "conv"):  # since torch 2.9
        return [(cudnn.conv, "fp32_precision", "ieee"), (matmul, "fp32_precision", "ieee")]
    return [(cudnn, "allow_tf32", False), (matmul, "allow_tf32", False)]


def cpu_abilities() -> dict[str, Any]:
    """What torch says of this processor, by name. Empty where torch, such as 2.8, cannot say."""
    return getattr(torch.cpu, "get_capabilities", dict)()
