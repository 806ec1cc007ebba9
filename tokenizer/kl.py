"""Continuous latents: a diagonal Gaussian in the place of a quantizer (VAE, arXiv 1312.6114).

Latent diffusion (arXiv 2112.10752, section 3.1) calls it KL regularisation.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizer.parts import QUANTIZERS, Bottleneck, BottleneckConfig
from training.config import MAX_WIDTH, require, require_sizes


@QUANTIZERS.register("kl")
@dataclass(kw_only=True)
class KLConfig(BottleneckConfig):
    """A diagonal Gaussian over continuous latents, drawn towards the standard normal distribution."""

    training_only: ClassVar = frozenset({"kl"})

    dim: int = 16
    """Dimensions of a latent."""
    kl: float = 1e-4
    """Weight of the KL divergence from the prior, in nats a dimension. A small one costs no quality; with a large one,
    pictures drawn from the prior look better than noise."""

    def __post_init__(self) -> None:
        require_sizes(self, dim=MAX_WIDTH)
        require(self, "kl", self.kl >= 0, "0 or more")

    def build(self, width: int) -> "DiagonalGaussian":
        """Build the module for vectors of this width."""
        return DiagonalGaussian(width, self.dim)


class DiagonalGaussian(Bottleneck):
    """The posterior of the latents given a picture. Latents of a picture are its mean; training samples it."""

    latents_tensors = ("mean.",)
    pixels_tensors = ("project_out.",)

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.mean = nn.Linear(width, dim)
        self.log_variance = nn.Linear(width, dim)
        self.project_out = nn.Linear(dim, width)

    def forward(self, z: Tensor) -> tuple[Tensor, None, dict[str, Tensor]]:
        """(B, h, w, D) -> a sample of the posterior for the decoder (B, h, w, D), no codes, and its KL divergence from
        the prior: the mean over dimensions, in nats."""
        mean = self.mean(z)
        log_variance = self.log_variance(z).clamp(-30, 20)  # so that exp and its gradient are finite
        sample = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)  # section 2.4
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)  # appendix B
        return self.project_out(sample), None, {"kl": kl.mean()}

    def vectors(self, z: Tensor) -> Tensor:
        """(B, h, w, D) -> mean of the posterior (B, h, w, C)."""
        return self.mean(z)

    def decoded(self, vectors: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, h, w, D)."""
        return self.project_out(vectors)


def nats_per_dimension(made: Tensor, images: Tensor, kl: Tensor, latents: int) -> Tensor:
    """The bound on -log p(picture), in nats a dimension of a picture (arXiv 1312.6114, eq. 7): a scalar.

    p(picture | latents) is a Gaussian of unit variance around the decoded picture, over values in [-1, 1]: 0.919, half
    of log 2 pi, is the least. It compares tokenizers, whatever the dimensions of their latents.

    Args:
        made: pictures decoded from samples of the posterior, (B, 3, H, W).
        images: the originals.
        kl: KL divergence of the posterior, in nats a dimension of the latents.
        latents: dimensions of the latents of a picture.
    """
    error = F.mse_loss(made.detach().float(), images)
    return 0.5 * (error + math.log(2 * math.pi)) + kl.detach() * latents / images[0].numel()
