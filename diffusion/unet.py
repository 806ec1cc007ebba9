"""The U-Net with cross-attention of latent diffusion (arXiv 2112.10752), from `diffusers`."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from diffusion.condition import Caption, mean_state
from seq2seq.layers import KeysValues
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

    def __call__(self, attn: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return _attend(attn, hidden_states, _keys_values(attn, hidden_states), None)


class AttentionToCaption:
    """Cross-attention for `diffusers` on keys and values that were computed once a caption, not at every step."""

    keys_values: KeysValues
    """Of the captions at hand, (B, heads, S, K) each."""
    mask: Tensor
    """bool (B, 1, 1, S), False at padding."""

    def __call__(self, attn: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """Queries from (B, N, C) -> (B, N, C)."""
        return _attend(attn, hidden_states, self.keys_values, self.mask)


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
        # not registered: they are the net's own
        own = [module for name, module in self.net.named_modules() if name.endswith("attn1")]
        self._cross = [module for name, module in self.net.named_modules() if name.endswith("attn2")]
        for layer in own:
            layer.set_processor(SelfAttention())
        for layer in self._cross:
            layer.set_processor(AttentionToCaption())

    def caption(self, states: Tensor, mask: Tensor) -> Caption:
        """Caption states (B, S, D), mask bool (B, S) -> what `forward` takes."""
        return Caption(
            [_keys_values(layer, states) for layer in self._cross], mask[:, None, None], mean_state(states, mask)
        )

    def forward(self, x: Tensor, t: Tensor, caption: Caption) -> Tensor:
        """Latents (B, C, h, w), times (B,) in [0, 1], 1 is noise -> (B, C out, h, w)."""
        for layer, keys_values in zip(self._cross, caption.keys_values, strict=True):
            layer.processor.keys_values, layer.processor.mask = keys_values, caption.mask
        said: Tensor = self.net(x, 1000 * t, None, timestep_cond=caption.pooled).sample
        return said
