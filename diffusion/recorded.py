"""A denoiser to draw with on a CPU: its operators are recorded at the first call, and run without Python from then on.

Half of a U-Net's time, and a quarter of a small transformer's, is what lies between the operators.
"""

import copy
from collections.abc import Callable

from torch import Tensor, nn

from diffusion.condition import Caption
from diffusion.dit import DiT
from diffusion.model import DiffusionModel
from diffusion.unet import UNet
from seq2seq.packed import recorded


def with_recorded_denoiser(model: DiffusionModel) -> DiffusionModel:
    """`model` to draw with. All is shared with it, and it is left as it was; it must not learn any more."""
    twin = copy.copy(model)
    twin._modules = {**model._modules, "denoiser": RecordedDenoiser(model.denoiser)}
    return twin


class RecordedDenoiser(nn.Module):
    """Does what the denoiser does."""

    def __init__(self, denoiser: DiT | UNet) -> None:
        super().__init__()
        self.caption = denoiser.caption
        self._flat = _Flat(denoiser)
        self._recorded: Callable[..., Tensor] | None = None

    def forward(self, x: Tensor, t: Tensor, caption: Caption) -> Tensor:
        """Latents (B, C, h, w), times (B,), captions -> (B, C out, h, w)."""
        keys_values = [tensor for pair in caption.keys_values for tensor in pair]
        arguments = (x, t, keys_values, caption.mask, caption.pooled)
        if self._recorded is None:
            self._recorded = recorded(self._flat, arguments)
        return self._recorded(*arguments)


class _Flat(nn.Module):
    """A denoiser as a function of tensors, which is what can be recorded."""

    def __init__(self, denoiser: DiT | UNet) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, t: Tensor, keys_values: list[Tensor], mask: Tensor, pooled: Tensor) -> Tensor:
        pairs = list(zip(keys_values[::2], keys_values[1::2], strict=True))
        said: Tensor = self.denoiser(x, t, Caption(pairs, mask, pooled))
        return said
