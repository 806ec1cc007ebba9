"""LPIPS as a loss. The package is replaced by a small one, because tests download nothing."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tokenizer.image_tokenizer import Reconstruction
from tokenizer.losses import ReconstructionConfig, TokenizerLoss
from tokenizer.lpips import LPIPSLoss
from tokenizer.quantizers import CosineVQConfig
from training.errors import BadInput

URL = "https://download.pytorch.org/models/vgg16-397923af.pth"


class Stub(nn.Module):
    """Has the interface of `lpips.LPIPS`: two batches in [-1, 1] -> (B, 1, 1, 1)."""

    def __init__(self, *, net: str, verbose: bool) -> None:
        super().__init__()
        assert net == "vgg"
        self.layer = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.Dropout())

    def forward(self, made: Tensor, images: Tensor) -> Tensor:
        return self.layer(made - images).square().mean((1, 2, 3), keepdim=True)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The packages and, at the returned path, the weights."""
    package, models = ModuleType("lpips"), ModuleType("torchvision.models")
    package.LPIPS = Stub  # type: ignore[attr-defined]
    models.VGG16_Weights = SimpleNamespace(IMAGENET1K_V1=SimpleNamespace(url=URL))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lpips", package)
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "vgg16-397923af.pth").touch()
    return tmp_path / "checkpoints" / "vgg16-397923af.pth"


def test_it_is_the_mean_distance_weighed_as_a_term(installed: Path) -> None:
    objective = TokenizerLoss(ReconstructionConfig(l1=0, l2=0, perceptual=0, lpips=2), CosineVQConfig()).train()
    images = torch.zeros(2, 3, 4, 4)
    made = torch.stack([torch.full((3, 4, 4), value) for value in (0.1, 0.3)]).requires_grad_()
    total, terms = objective(Reconstruction(made, torch.zeros(2, 1, 1), {}, torch.zeros(2, 1, 1, 4)), images)
    assert objective.lpips is not None
    weight = objective.lpips.network.layer[0].weight.sum()
    torch.testing.assert_close(terms["lpips"], weight**2 * (0.1**2 + 0.3**2) / 2)  # no dropout
    torch.testing.assert_close(total, 2 * terms["lpips"])
    total.backward()
    assert made.grad is not None
    assert made.grad.abs().sum() > 0
    assert all(p.grad is None for p in objective.parameters())


def test_without_the_weights_it_says_where_they_belong(installed: Path) -> None:
    installed.unlink()
    with pytest.raises(BadInput, match=r"download https://.*vgg16-397923af.pth to /.*/checkpoints/vgg16-397923af.pth"):
        LPIPSLoss()


@pytest.mark.parametrize("missing", ["lpips", "torchvision.models"])
def test_without_a_package_it_says_what_to_install(
    installed: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(BadInput, match="run pip install lpips torchvision"):
        LPIPSLoss()


def test_the_real_one_grows_with_noise() -> None:
    pytest.importorskip("lpips", reason="the package lpips is not installed")
    pytest.importorskip("torchvision", reason="the package torchvision is not installed")
    try:
        loss: Any = LPIPSLoss()
    except BadInput as error:
        pytest.skip(str(error))
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    noise = torch.randn(images.shape)
    assert loss(images, images) < loss(images + 0.1 * noise, images) < loss(images + 0.5 * noise, images)
