"""Losses of the image tokenizer: the error of a reconstruction, in pixels and in features."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizer.alignment import STRIDES
from tokenizer.discriminators import DiscriminatorConfig, PatchConfig
from tokenizer.features import FeatureNetwork
from tokenizer.image_tokenizer import Reconstruction
from tokenizer.lpips import LPIPSLoss
from tokenizer.parts import BottleneckConfig
from training.config import require
from training.options import OptimizerConfig
from training.parts import Registry
from training.precision import uses_bf16
from training.task import TaskConfig

TASKS: Registry[type["ReconstructionConfig"]] = Registry("tokenizer-task")


@TASKS.register("reconstruction")
@dataclass(kw_only=True)
class ReconstructionConfig(TaskConfig):
    """Reconstruct a picture. The options weigh the terms of the loss; the bottleneck's options weigh its own."""

    registry: ClassVar = TASKS
    task: ClassVar = "tokenizer.task.TokenizerTask"

    l1: float = 1.0
    """Mean absolute error of pixels in [-1, 1]."""
    l2: float = 1.0
    """Mean squared error of pixels in [-1, 1]."""
    perceptual: float = 0.3
    """Distance between features of the frozen network; 0 does not use the network."""
    perceptual_size: int = 128
    """Size of pictures for the feature network, in pixels. It was trained at 224."""
    lpips: float = 0.0
    """LPIPS on VGG. Needs the packages `lpips` and `torchvision`, and the weights of VGG."""
    alignment: float = 0.0
    """Distance of the encoder's vectors from features of the frozen network (VF loss). If it is adaptive, the ratio of
    its gradient to that of the other losses; 0.1 is a start."""
    alignment_adaptive: bool = True
    """Scale the alignment loss until its gradient at the encoder's last layer has that ratio."""
    alignment_stride: int = 16
    """Stride of the feature map: 4, 8, 16 or 32. Pictures are resized so that it has as many places as codes."""
    min_usage: float = 0.0
    """Stop when less than this share of the codes is in use; 0 never stops."""
    min_usage_after: int = 1000
    """Step from which on `min_usage` counts."""

    def __post_init__(self) -> None:
        for name in ("l1", "l2", "perceptual", "lpips", "alignment", "min_usage_after"):
            require(self, name, getattr(self, name) >= 0, "0 or more")
        require(self, "alignment_stride", self.alignment_stride in STRIDES, "4, 8, 16 or 32")
        require(self, "min_usage", 0 <= self.min_usage <= 1, "from 0 to 1")
        size = self.perceptual_size
        require(self, "perceptual_size", size >= 32 and size % 32 == 0, "a multiple of 32, the network's stride")


@dataclass(kw_only=True)
class DiscriminatorOptimizerConfig(OptimizerConfig):
    """The discriminator's optimizer: as the model's, with other defaults."""

    learning_rate: float = 2e-4
    """Peak learning rate of AdamW."""
    beta1: float = 0.5
    """Decay of AdamW's running mean of the gradient."""
    beta2: float = 0.9
    """Decay of AdamW's running mean of the squared gradient."""
    weight_decay: float = 0.0
    """Decoupled weight decay of tensors with two or more dimensions, so not of biases and norms."""


@TASKS.register("adversarial")
@dataclass(kw_only=True)
class AdversarialConfig(ReconstructionConfig):
    """Reconstruct a picture so that a discriminator, which learns too, takes it for a real one."""

    task: ClassVar = "tokenizer.adversarial.AdversarialTask"

    adversarial: float = 0.1
    """Weight of the adversarial loss. If it is adaptive, the ratio of its gradient to that of the reconstruction."""
    adaptive: bool = True
    """Scale the adversarial loss until its gradient at the decoder's last layer has that ratio."""
    start: int = 1000
    """Step from which on the discriminator learns and counts. Before, pictures are too blurred to be mistaken."""
    loss: Literal["hinge", "non-saturating"] = "hinge"
    """What discriminator and model minimise."""
    r1: float = 0.0
    """Weight of the R1 penalty: the squared gradient of the logits of real pictures. Keeps a discriminator smooth; a
    start is 1 for `patch`, and 10 for `stylegan`. It cannot be computed with a compiled model."""
    r1_every: int = 16
    """Compute R1 only every so many steps, with as many times the weight."""
    lecam: float = 0.0
    """Weight of LeCAM, which keeps logits near their moving averages. Helps with few pictures; a start is 0.001."""
    lecam_decay: float = 0.99
    """Decay of those averages."""
    discriminator: DiscriminatorConfig = field(default_factory=PatchConfig)
    """The network that tells real pictures from made ones."""
    discriminator_optimizer: DiscriminatorOptimizerConfig = field(default_factory=DiscriminatorOptimizerConfig)
    """Its optimizer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("adversarial", "start", "r1", "lecam"):
            require(self, name, getattr(self, name) >= 0, "0 or more")
        require(self, "r1_every", self.r1_every >= 1, "1 or more")
        require(self, "lecam_decay", 0 <= self.lecam_decay < 1, "from 0 to below 1")


class TokenizerLoss(nn.Module):
    """Weighted sum of the terms, with the bottleneck's losses among them."""

    def __init__(self, config: ReconstructionConfig, quantizer: BottleneckConfig) -> None:
        super().__init__()
        self.config, self.quantizer = config, quantizer
        self.perceptual = PerceptualLoss(config.perceptual_size) if config.perceptual else None
        self.lpips = LPIPSLoss() if config.lpips else None

    def forward(self, made: Reconstruction, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstruction and original, (B, 3, H, W) in [-1, 1] -> scalar loss, and its terms by name for the log."""
        terms = {"l1": F.l1_loss(made.images, images), "l2": F.mse_loss(made.images, images), **made.losses}
        if self.perceptual:
            terms["perceptual"] = self.perceptual(made.images, images)
        if self.lpips:
            terms["lpips"] = self.lpips(made.images, images)
        weights = {name: getattr(self.quantizer if name in made.losses else self.config, name) for name in terms}
        return sum((weights[name] * term for name, term in terms.items()), torch.zeros(())), terms


class PerceptualLoss(nn.Module):
    """Squared distance of unit-normalised feature maps, averaged over positions and stages (arXiv 1801.03924, eq. 1).

    All channels have equal weights: there are no human judgements to learn weights from for this network.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.network = FeatureNetwork().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, made: Tensor, images: Tensor) -> Tensor:
        """Two batches (B, 3, H, W) in [-1, 1] -> scalar."""
        with torch.no_grad():
            targets = self._features(images)
        distances = [
            (feature - target).square().sum(1).mean()
            for feature, target in zip(self._features(made), targets, strict=True)
        ]
        return torch.stack(distances).mean()

    def _features(self, images: Tensor) -> list[Tensor]:
        images = F.interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=False)
        device = images.device.type
        with torch.autocast(device, torch.bfloat16, enabled=uses_bf16(device)):
            maps = self.network.stages(images.contiguous(memory_format=torch.channels_last))
        return [F.normalize(feature.float(), dim=1, eps=1e-3) for feature in maps]


def psnr(made: Tensor, images: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of a batch in dB, for pictures in [-1, 1], where the peak-to-peak value is 2."""
    error = F.mse_loss(made.detach().float().clamp(-1, 1), images)
    return 10 * torch.log10(4 / error.clamp_min(1e-10))
