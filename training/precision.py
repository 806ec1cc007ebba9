"""Which arithmetic a machine is made for."""

import torch


def has_bf16(device_type: str) -> bool:
    """Whether matrix products in bfloat16 have hardware there.

    Where they have none they are emulated: on a CPU with AVX2 alone, 270 times slower than float32.
    """
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return True
