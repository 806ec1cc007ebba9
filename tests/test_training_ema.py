import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from training import ema


def model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def moved(net: nn.Module) -> None:
    """Changes the model as a training step would."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter))
    net(torch.randn(8, 3))


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
def test_it_agrees_with_torch(decay: float) -> None:
    net = model(0).train()
    average = ema.averaged_copy(net)

    def warmed_up(mine: torch.Tensor, theirs: torch.Tensor, updates: torch.Tensor | int) -> torch.Tensor:
        step = int(updates) - 1  # AveragedModel takes the first model as it is, so it has counted one by now
        share = min(decay, (1 + step) / (10 + step))
        return share * mine + (1 - share) * theirs

    reference = AveragedModel(net, avg_fn=warmed_up, use_buffers=False)
    reference.update_parameters(net)
    for step in range(12):
        moved(net)
        ema.update(average, net, step, decay)
        reference.update_parameters(net)
    for mine, theirs in zip(average.parameters(), reference.module.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_buffers_are_copied() -> None:
    net = model(0).train()
    average = ema.averaged_copy(net)
    moved(net)
    ema.update(average, net, 5, 0.999)
    assert not torch.equal(average[1].running_mean, torch.zeros(4))
    for mine, theirs in zip(average.buffers(), net.buffers(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_average_is_separate_frozen_and_in_eval_mode() -> None:
    net = model(0).train()
    average = ema.averaged_copy(net)
    before = [parameter.clone() for parameter in average.parameters()]
    moved(net)
    assert all(torch.equal(a, b) for a, b in zip(average.parameters(), before, strict=True))
    assert not average.training
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
