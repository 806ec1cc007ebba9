"""A feature network that costs nothing: random projections of a shrunk picture."""

import torch
from torch import Tensor
from torch.nn import functional as F

from evaluation.features import Features
from tokenizer.features import resized


class FakeNetwork:
    """Deterministic; `calls` counts the pictures it was shown."""

    def __init__(self, name: str = "lite0") -> None:
        self.name = name
        self.hash = f"fake {name}"
        self.calls = 0
        self.device = torch.device("cpu")
        generator = torch.Generator().manual_seed(len(name))
        self._weights = torch.randn(3 * 8 * 8, 16, generator=generator)

    def __call__(self, images: Tensor) -> Features:
        self.calls += len(images)
        x = resized(images, 8).flatten(1) / 127.5 - 1
        pooled = F.relu(x @ self._weights)
        return Features(pooled=pooled, probabilities=pooled[:, :5].softmax(1))
