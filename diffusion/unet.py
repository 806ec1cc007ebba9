"""The U-Net with cross-attention of latent diffusion (arXiv 2112.10752), from `diffusers`."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from diffusion.condition import CaptionCache, mean_state
from training.attention import attention
from training.config import MAX_WIDTH, require, require_sizes
from training.errors import BadInput, needing


@dataclass(kw_only=True)
class UNetConfig:
    """Shape of the U-Net."""

    channels: tuple[int, ...] = (32, 128)
    """Channels at each resolution, which is half of the one before. Multiples of `head_width` and `groups`."""
    layers: int = 2
    """Residual blocks at each resolution."""
    head_width: int = 32
    """Channels of an attention head."""
    groups: int = 8
    """Groups of the group norms. A norm of one channel a group would remove the mean of each channel."""
    dropout: float = 0.1
    """Dropout in the residual blocks."""

    def __post_init__(self) -> None:
        require_sizes(self, layers=100, head_width=MAX_WIDTH, groups=MAX_WIDTH)
        fits = all(0 < c <= MAX_WIDTH and c % self.head_width == 0 == c % self.groups for c in self.channels)
        require(
            self, "channels", 1 <= len(self.channels) <= 16 and fits,
            f"multiples of head_width and groups, 1 to 16 of them, each up to {MAX_WIDTH}",
        )  # fmt: skip
        require(self, "dropout", 0 <= self.dropout < 1, "from 0 to below 1")


class AttentionProcessor:
    """Computes an attention layer of `diffusers` by `training.attention`.

    Keys and values of the caption are computed once, not at every step.
    """

    def __init__(self, number: int | None = None) -> None:
        """`number`: a number for each cross-attention to the caption; None for self-attention."""
        self.number = number

    def __call__(
        self, attn: Any, x: Tensor, encoder_hidden_states: Tensor | None = None, *, caption: CaptionCache, **_: Any
    ) -> Tensor:
        """(B, N, C), caption states (B, S, D) or None once they are read -> (B, N, C)."""
        source = x if self.number is None else encoder_hidden_states
        new = [] if source is None else [_split_heads(layer(source), attn.heads) for layer in (attn.to_k, attn.to_v)]
        keys, values = new if self.number is None else caption.keep(self.number, *new)
        mask = None if self.number is None else caption.mask
        y = attention(_split_heads(attn.to_q(x), attn.heads), keys, values, mask=mask)
        return attn.to_out[1](attn.to_out[0](y.transpose(1, 2).flatten(2)))


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, heads * K) -> (B, heads, N, K)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


class UNet(nn.Module):
    """Noisy latents, time and caption states -> a prediction for each latent."""

    def __init__(self, config: UNetConfig, width: int, channels: int, out_channels: int, grid: int) -> None:
        """Raise `BadInput` if the grid cannot be halved for each resolution, or `diffusers` is not installed."""
        super().__init__()
        c, levels = config, len(config.channels)
        if grid % 2 ** (levels - 1):
            raise BadInput(f"UNetConfig.channels has {levels} resolutions: a grid of {grid} cannot be halved so often")
        with needing("diffusion"):
            from diffusers import UNet2DConditionModel
        self.net = UNet2DConditionModel(
            sample_size=grid,
            in_channels=channels,
            out_channels=out_channels,
            down_block_types=("CrossAttnDownBlock2D",) * levels,
            up_block_types=("CrossAttnUpBlock2D",) * levels,
            block_out_channels=c.channels,
            layers_per_block=c.layers,
            cross_attention_dim=width,
            time_cond_proj_dim=width,  # width of the mean caption state, which is added to the time embedding
            # in diffusers, this is the number of heads, despite its name
            attention_head_dim=tuple(n // c.head_width for n in c.channels),
            norm_num_groups=c.groups,
            dropout=c.dropout,
        )
        for parameter in self.net.conv_out.parameters():  # at first, the prediction is zero
            nn.init.zeros_(parameter)
        own, cross = ([m for name, m in self.net.named_modules() if name.endswith(kind)] for kind in ("attn1", "attn2"))
        for layer in own:
            layer.set_processor(AttentionProcessor())
        for number, layer in enumerate(cross):
            layer.set_processor(AttentionProcessor(number))

    def forward(self, x: Tensor, t: Tensor, states: Tensor | None, caption: CaptionCache) -> Tensor:
        """Latents (B, C, h, w), times (B,) or (1,) from 0 (clean) to 1 (noise) -> (B, C out, h, w).

        Reads the caption states (B, S, D) into `caption`; `states` is None once that is done.
        """
        if states is not None:
            caption.pooled = mean_state(states, caption.mask[:, 0, 0])
        arguments = {"caption": caption}
        return self.net(x, 1000 * t, states, timestep_cond=caption.pooled, cross_attention_kwargs=arguments).sample
