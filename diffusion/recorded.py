"""A denoiser to draw with on a CPU: its operators are recorded at the first call, and run without Python from then on.

Half of a U-Net's time, and a quarter of a small transformer's, is what lies between the operators.
"""

import copy

from torch import Tensor, nn

from diffusion.condition import Caption
from diffusion.dit import DiT
from diffusion.model import DiffusionModel
from diffusion.unet import UNet
from seq2seq.packed import Recorded


def with_recorded_denoiser(model: DiffusionModel) -> DiffusionModel:
    """`model` to draw with. All is shared with it, and it is left as it was; it must not learn any more."""
    twin = copy.copy(model)
    twin._modules = {**model._modules, "denoiser": RecordedDenoiser(model.denoiser)}
    return twin


class RecordedDenoiser(nn.Module):
    """Does what the denoiser does."""

    def __init__(self, denoiser: DiT | UNet) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.recorded = Recorded(_Flat(denoiser))

    def forward(self, x: Tensor, t: Tensor, states: Tensor | None, caption: Caption) -> Tensor:
        """As the denoiser. The pass that reads captions, the first of a drawing, is not a recorded one."""
        if states is not None:
            return self.denoiser(x, t, states, caption)
        keys_values = [tensor for i in range(len(caption.keys_values)) for tensor in caption.keys_values[i]]
        return self.recorded(None, (x, t, keys_values, caption.mask, caption.pooled))


class _Flat(nn.Module):
    """A denoiser that has read its captions as a function of tensors, which is what can be recorded."""

    def __init__(self, denoiser: DiT | UNet) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, t: Tensor, keys_values: list[Tensor], mask: Tensor, pooled: Tensor) -> Tensor:
        caption = Caption(None)
        caption.mask, caption.pooled = mask, pooled
        caption.keys_values = dict(enumerate(zip(keys_values[::2], keys_values[1::2], strict=True)))
        return self.denoiser(x, t, None, caption)
