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


@pytest.mark.parametrize("length", [0.05, 0.15, 0.25])
def test_its_length_is_a_share_of_the_steps_so_far(length: float) -> None:
    """After T steps, the share of each step has the standard deviation `length` times T."""
    steps = 3000
    net = nn.Linear(steps, 1, bias=False)
    average = ema.averaged_copy(net)
    for step in range(steps):
        with torch.no_grad():
            net.weight.zero_()[0, step] = 1.0  # so that the average becomes the shares themselves
        ema.update(average, net, step, length)
    shares = average.weight[0].double()
    at = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    mean = (shares * at).sum()
    assert shares.sum().item() == pytest.approx(1, abs=1e-4)
    assert ((shares * (at - mean) ** 2).sum() ** 0.5).item() == pytest.approx(length, rel=1e-2)
    # a power of the step: the share grows as fast wherever it is measured
    growth = torch.log2(shares[[999, 1999]] / shares[[499, 999]])
    assert growth[0].item() == pytest.approx(growth[1].item(), rel=1e-2)


def test_it_agrees_with_torch() -> None:
    net = model(0).train()
    average = ema.averaged_copy(net)

    def mixed(mine: torch.Tensor, theirs: torch.Tensor, updates: torch.Tensor | int) -> torch.Tensor:
        share = (1 - 1 / int(updates)) ** (4.5 + 1)  # `updates` counts the first model, which is taken as it is
        return share * mine + (1 - share) * theirs

    reference = AveragedModel(net, avg_fn=mixed, use_buffers=False)
    reference.update_parameters(net)
    length = (5.5 / (6.5**2 * 7.5)) ** 0.5  # of the power 4.5
    for step in range(12):
        moved(net)
        ema.update(average, net, step, length)
        reference.update_parameters(net)
    for mine, theirs in zip(average.parameters(), reference.module.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_with_length_0_the_last_weights_stay() -> None:
    net = model(0).train()
    average = ema.averaged_copy(net)
    for step in range(3):
        moved(net)
        ema.update(average, net, step, 0.0)
    for mine, theirs in zip(average.parameters(), net.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_buffers_are_copied() -> None:
    net = model(0).train()
    average = ema.averaged_copy(net)
    moved(net)
    ema.update(average, net, 5, 0.1)
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
