"""Muon compared with singular value decompositions, and AdamW beside it."""

import pytest
import torch

from training.muon import Muon, orthogonal
from training.precision import has_bf16


@pytest.mark.parametrize("shape", [(40, 40), (30, 90), (90, 30)])
def test_an_update_has_singular_values_about_one_and_keeps_its_directions(shape: tuple[int, int]) -> None:
    """Singular values from 0.02 to 1 end up between 0.6 and 1.3. The singular vectors do not change."""
    generator = torch.Generator().manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    found = orthogonal([u @ torch.diag(torch.linspace(1, 0.02, min(shape))) @ vh])[0]
    turned = u.T @ found @ vh.T
    values = turned.diagonal()
    assert values.min() > 0.6
    assert values.max() < 1.3
    assert (turned - torch.diag(values)).abs().max() < (0.05 if has_bf16("cpu") else 1e-3)
    assert not orthogonal([torch.zeros(shape)])[0].any()


def test_matrices_of_any_sizes_can_be_mixed() -> None:
    """Each result is the same as alone, at its own place. Matrices of one size share a batch."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 20), (20, 8), (8, 8), (8, 20), (5, 9)]
    matrices = [torch.randn(shape, generator=generator) for shape in shapes]
    for matrix, found in zip(matrices, orthogonal(matrices), strict=True):
        torch.testing.assert_close(found, orthogonal([matrix])[0], atol=0.02, rtol=0)
    assert orthogonal([]) == []


def test_a_step_of_muon_and_of_adamw() -> None:
    """The first step of Muon is the orthogonalised gradient, scaled and decayed. Other groups equal AdamW to the
    bit."""
    torch.manual_seed(0)
    matrix, vector = torch.randn(8, 4), torch.randn(5)
    ours, twin = [torch.nn.Parameter(x.clone()) for x in (matrix, vector)], torch.nn.Parameter(vector.clone())
    muon = {"params": [ours[0]], "lr": 0.1, "weight_decay": 0.5, "muon": True}
    optimizer = Muon([{"params": [ours[1]], "lr": 0.01, "weight_decay": 0.2}, muon], betas=(0.9, 0.99), fused=True)
    reference = torch.optim.AdamW([twin], lr=0.01, weight_decay=0.2, betas=(0.9, 0.99), fused=True)
    gradients = [torch.randn(3, 8, 4), torch.randn(3, 5)]
    for step in range(3):
        for parameter, gradient in zip((*ours, twin), (*gradients, gradients[1]), strict=True):
            parameter.grad = gradient[step].clone()
        optimizer.step()
        reference.step()
        if step == 0:
            expected = matrix * (1 - 0.1 * 0.5) - 0.1 * 2**0.5 * orthogonal([gradients[0][0]])[0]
            torch.testing.assert_close(ours[0].detach(), expected, atol=1e-4, rtol=1e-4)
        assert torch.equal(ours[1], twin)
    assert optimizer.state[ours[0]].keys() == {"momentum"}


def test_a_convolution_is_a_matrix() -> None:
    """Its update is that of the matrix by which it multiplies each patch, in either memory format."""
    torch.manual_seed(0)
    kernel, gradients = torch.randn(6, 2, 3, 3), torch.randn(2, 6, 2, 3, 3)
    channels_last = kernel.clone(memory_format=torch.channels_last)
    weights = [torch.nn.Parameter(x) for x in (kernel.flatten(1).clone(), kernel.clone(), channels_last)]
    optimizer = Muon([{"params": weights, "lr": 0.1, "weight_decay": 0.5, "muon": True}, {"params": []}])
    for gradient in gradients:
        for weight in weights:
            weight.grad = gradient.reshape(weight.shape)
        optimizer.step()
    assert all(torch.equal(weights[0], weight.flatten(1)) for weight in weights[1:])


def test_it_descends_where_one_direction_is_a_thousand_times_as_steep() -> None:
    """A quadratic on which gradient descent makes almost no progress."""
    steep = torch.logspace(0, -3, 6)
    weight = torch.nn.Parameter(torch.eye(6))
    optimizer = Muon([{"params": [weight], "lr": 0.05, "weight_decay": 0.0, "muon": True}, {"params": []}])
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 200)
        weight.grad = None
        (steep[:, None] * weight.square()).sum().backward()
        optimizer.step()
    assert weight.abs().max() < 0.1
