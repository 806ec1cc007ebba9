"""The inputs of a denoiser besides the noisy latents: the time and the captions."""

import math

import torch
from torch import Tensor, nn

from seq2seq.cache import KeysValues

FREQUENCIES = 128


class CaptionCache:
    """What a denoiser computes from a batch of captions. The first pass fills it in, and later passes read it."""

    mask: Tensor
    """bool (B, 1, 1, S), False at padding."""
    pooled: Tensor
    """The mean caption state (B, D), which is added to the time embedding."""

    def __init__(self, text: Tensor | None) -> None:
        """`text`: caption ids (B, S) int64; None once they are read."""
        self.text = text
        self.keys_values: dict[int, KeysValues] = {}
        """Keys and values of each cross-attention, (B, H, S, K), by its number."""

    def keep(self, number: int, *new: Tensor) -> KeysValues:
        """A `Memory` of `Attention`: stores new keys and values of a cross-attention, if given; returns them."""
        if new:
            keys, values = new
            self.keys_values[number] = keys, values
        return self.keys_values[number]


class TimeEmbedding(nn.Module):
    """Sines and cosines of the time, then an MLP: (B,) in [0, 1] -> (B, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """Use geometric periods from 2 pi / 1000 to 20 pi, as in DDPM's code, where times run to 1000."""
        steps = torch.arange(FREQUENCIES, device=t.device) / FREQUENCIES
        angles = 1000 * t.float()[:, None] * torch.exp(-math.log(10_000) * steps)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.mlp(waves.to(next(self.parameters()).dtype))


def mean_state(states: Tensor, mask: Tensor) -> Tensor:
    """Caption states (B, S, D), mask bool (B, S), False at padding -> mean state (B, D)."""
    kept = mask[..., None].to(states.dtype)
    return (states * kept).sum(1) / kept.sum(1)


def view_per_reader(states: Tensor | None, readers: int) -> list[Tensor | None]:
    """Return a view of the caption states for each reader.

    Gradients of the views are summed in the order of this list. So results do not depend, even in rounding, on when
    each reader reads.
    """
    return [None if states is None else states.view_as(states) for _ in range(readers)]
