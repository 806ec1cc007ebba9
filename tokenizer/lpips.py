"""LPIPS as a loss: the learned perceptual distance (arXiv 1801.03924), on the features of VGG.

Evaluation measures LPIPS on SqueezeNet, so that no model is trained on what it is judged by.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.errors import BadInput


class LPIPSLoss(nn.Module):
    """The mean distance of two batches of pictures.

    Raises `BadInput` at construction when packages or weights are missing. It downloads nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = _network().requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "LPIPSLoss":
        """Stay in eval mode: the network is frozen."""
        return super().train(False)

    def forward(self, made: Tensor, images: Tensor) -> Tensor:
        """Two batches (B, 3, H, W) in [-1, 1] -> scalar."""
        return self.network(made, images).mean()


def _network() -> Any:
    try:
        lpips, models = import_module("lpips"), import_module("torchvision.models")
    except ImportError as error:
        raise BadInput(f"task.lpips needs two packages ({error}): run pip install lpips torchvision") from None
    url = models.VGG16_Weights.IMAGENET1K_V1.url
    file = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    if not file.is_file():
        raise BadInput(f"task.lpips needs the weights of VGG: download {url} to {file}")
    return lpips.LPIPS(net="vgg", verbose=False)
