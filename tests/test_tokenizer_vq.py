"""The quantizer of VQGAN."""

from typing import Any

import pytest
import torch

from tokenizer.quantizers import VQConfig
from tokenizer.vq import VQ

Z = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(0))


def quantizer(**options: Any) -> VQ:
    torch.manual_seed(0)
    made = VQ(6, VQConfig(**{"size": 40, "dim": 6, **options}))
    made._codebook.embed.normal_()
    return made


@torch.no_grad()
def test_codes_are_the_nearest() -> None:
    """Compares one vector with one code at a time, in double precision."""
    model = quantizer().eval()
    vectors, codebook = model.vectors(Z), model.codebook.double()
    expected = [
        min(range(40), key=lambda k: float((vector - codebook[k]).square().sum()))
        for vector in vectors.double().view(-1, 6)
    ]
    codes = model.nearest(vectors)
    assert codes.flatten().tolist() == expected
    quantized, same, _ = model(Z)
    assert torch.equal(codes, same)
    torch.testing.assert_close(model.lookup(codes), quantized)


@torch.no_grad()
def test_the_first_of_equally_near_codes_is_chosen() -> None:
    model = quantizer().eval()
    model._codebook.embed[:, 7:] = model._codebook.embed[:, 7:8].clone()
    vectors = model.codebook[39].expand(1, 2, 2, 6)
    assert model.nearest(vectors).unique().tolist() == [7]


@pytest.mark.parametrize("rotation", [True, False])
def test_training_moves_codes_and_the_vectors_before_them(rotation: bool) -> None:
    model = quantizer(rotation=rotation).train()
    before = model.codebook.clone()
    z = Z.clone().requires_grad_()
    quantized, _, losses = model(z)
    quantized.sum().backward()
    assert not torch.equal(model.codebook, before)
    assert losses.keys() == {"commitment"}
    copied = model.project_out.weight.sum(0) @ model.project_in.weight  # what a straight-through gradient is
    assert torch.allclose(z.grad, copied.expand_as(z), atol=1e-5) == (not rotation)


def test_only_gradients_differ_with_rotation() -> None:
    assert {"rotation", "commitment"} <= VQConfig.training_only
    made = [quantizer(rotation=rotation).train()(Z)[0] for rotation in (True, False)]
    torch.testing.assert_close(*made)
