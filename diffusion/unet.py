"""The U-Net with cross-attention of latent diffusion (arXiv 2112.10752), from `diffusers`."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from diffusion.condition import Caption, mean_state
from seq2seq.cache import KeysValues
from training.attention import attention
from training.config import MOST_WIDTH, require, require_sizes
from training.errors import BadInput, install


@dataclass(kw_only=True)
class UNetConfig:
    """Shape of the U-Net."""

    channels: tuple[int, ...] = (32, 128)
    """Channels at each resolution, each half the one before; multiples of `head_width` and `groups`."""
    layers: int = 2
    """Residual blocks a resolution."""
    head_width: int = 32
    """Channels of an attention head."""
    groups: int = 32
    """Groups of the group norms."""
    dropout: float = 0.1
    """Dropout in the residual blocks."""

    def __post_init__(self) -> None:
        require_sizes(self, layers=100, head_width=MOST_WIDTH, groups=MOST_WIDTH)
        fits = all(0 < c <= MOST_WIDTH and c % self.head_width == 0 == c % self.groups for c in self.channels)
        require(
            self, "channels", 1 <= len(self.channels) <= 16 and fits,
            f"multiples of head_width and groups, 1 to 16 of them, each up to {MOST_WIDTH}",
        )  # fmt: skip
        require(self, "dropout", 0 <= self.dropout < 1, "from 0 to below 1")


class SelfAttention:
    """Self-attention for `diffusers`, by the rule of `training.attention`."""

    def __call__(self, attn: Any, hidden_states: Tensor, *_: Any, caption: Caption, **__: Any) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return _attend(attn, hidden_states, _keys_values(attn, hidden_states), None)


class AttentionToCaption:
    """Cross-attention for `diffusers` on keys and values that are computed once a caption, not at every step."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None, *, caption: Caption, **_: Any
    ) -> Tensor:
        """Queries from (B, N, C), caption states (B, S, D) or None once they are kept -> (B, N, C)."""
        new = () if encoder_hidden_states is None else _keys_values(attn, encoder_hidden_states)
        return _attend(attn, hidden_states, caption.kept[self.number](*new), caption.mask)


def _attend(attn: Any, x: Tensor, keys_values: KeysValues, mask: Tensor | None) -> Tensor:
    """The layer `attn` of `diffusers`, with queries from x (B, N, C) -> (B, N, C)."""
    y = attention(_heads(attn.to_q(x), attn.heads), *keys_values, mask=mask)
    said: Tensor = attn.to_out[1](attn.to_out[0](y.transpose(1, 2).flatten(2)))
    return said


def _keys_values(attn: Any, x: Tensor) -> KeysValues:
    """What the layer `attn` of `diffusers` attends on in x (B, S, C)."""
    return _heads(attn.to_k(x), attn.heads), _heads(attn.to_v(x), attn.heads)


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, heads * K) -> (B, heads, N, K)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


class UNet(nn.Module):
    """Noisy latents, time and caption states -> the prediction at each latent."""

    def __init__(self, config: UNetConfig, width: int, channels: int, out_channels: int, grid: int) -> None:
        """Raises `BadInput` where the grid cannot be halved as often as asked, or `diffusers` is not installed."""
        super().__init__()
        c, levels = config, len(config.channels)
        if grid % 2 ** (levels - 1):
            raise BadInput(f"UNetConfig.channels has {levels} resolutions: a grid of {grid} cannot be halved so often")
        try:
            from diffusers import UNet2DConditionModel
        except ImportError:
            raise BadInput(f"the U-Net is not installed: {install('diffusion')}") from None
        self.net = UNet2DConditionModel(
            sample_size=grid,
            in_channels=channels,
            out_channels=out_channels,
            down_block_types=("CrossAttnDownBlock2D",) * levels,
            up_block_types=("CrossAttnUpBlock2D",) * levels,
            block_out_channels=c.channels,
            layers_per_block=c.layers,
            cross_attention_dim=width,
            time_cond_proj_dim=width,  # the mean caption state beside the time
            # whose name is a misnomer in diffusers: it is the number of heads
            attention_head_dim=tuple(n // c.head_width for n in c.channels),
            norm_num_groups=c.groups,
            dropout=c.dropout,
        )
        for parameter in self.net.conv_out.parameters():  # at first the prediction is zero
            nn.init.zeros_(parameter)
        own, cross = ([m for name, m in self.net.named_modules() if name.endswith(kind)] for kind in ("attn1", "attn2"))
        for layer in own:
            layer.set_processor(SelfAttention())
        for number, layer in enumerate(cross):
            layer.set_processor(AttentionToCaption(number))

    def forward(self, x: Tensor, t: Tensor, states: Tensor | None, caption: Caption) -> Tensor:
        """Latents (B, C, h, w), times (B,) in [0, 1], 1 is noise -> (B, C out, h, w).

        `states` of captions (B, S, D) are read into `caption`; None where they have been.
        """
        if states is not None:
            caption.pooled = mean_state(states, caption.mask[:, 0, 0])
        its = {"caption": caption}
        said: Tensor = self.net(x, 1000 * t, states, timestep_cond=caption.pooled, cross_attention_kwargs=its).sample
        return said
