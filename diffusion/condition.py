"""What a denoiser is told besides the noisy latents: the time, and what to draw."""

import math

import torch
from torch import Tensor, nn

from seq2seq.cache import KeysValues

FREQUENCIES = 128


class CaptionCache:
    """The captions of a drawing, as a denoiser reads them: the first pass fills in what the later ones read."""

    mask: Tensor
    """bool (B, 1, 1, S), False at padding."""
    pooled: Tensor
    """The mean state (B, D), told beside the time."""

    def __init__(self, text: Tensor | None) -> None:
        """`text`: caption ids (B, S) int64; None where all is filled in."""
        self.text = text
        self.keys_values: dict[int, KeysValues] = {}
        """What each cross-attention attends on, (B, H, S, K), by its number."""

    def keep(self, number: int, *new: Tensor) -> KeysValues:
        """A memory of `Attention`: keeps keys and values of a cross-attention, if there are new ones; returns them."""
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
        """Periods from 2 pi / 1000 to 20 pi, geometric: those of DDPM's code, whose times run to 1000."""
        steps = torch.arange(FREQUENCIES, device=t.device) / FREQUENCIES
        angles = 1000 * t.float()[:, None] * torch.exp(-math.log(10_000) * steps)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.mlp(waves.to(next(self.parameters()).dtype))


def mean_state(states: Tensor, mask: Tensor) -> Tensor:
    """Caption states (B, S, D), mask bool (B, S), False at padding -> their mean (B, D)."""
    kept = mask[..., None].to(states.dtype)
    return (states * kept).sum(1) / kept.sum(1)


def view_per_reader(states: Tensor | None, readers: int) -> list[Tensor | None]:
    """A view of the caption states a reader. Their gradients add up in the order of these, whenever each reader reads:
    what is trained does not depend on where in a block the caption is."""
    return [None if states is None else states.view_as(states) for _ in range(readers)]
