"""In which precision a device computes: bfloat16, float32, or TensorFloat-32."""

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


@contextmanager
def without_tf32() -> Iterator[None]:
    """Inside the block, or in a function that it decorates, convolutions in float32 are computed in float32.

    On a CUDA device they are otherwise rounded to TensorFloat-32, which has as few bits as float16: torch's default is
    to allow it for convolutions, though not for matrix products. That is enough for training, but it changes codes.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def cpu_abilities() -> dict[str, Any]:
    """What torch says of this processor, by name. Empty where torch, such as 2.8, cannot say."""
    return getattr(torch.cpu, "get_capabilities", dict)()
