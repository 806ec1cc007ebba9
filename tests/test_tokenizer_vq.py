"""The quantizer of VQGAN."""

from typing import Any

import pytest
import torch
from vector_quantize_pytorch.vector_quantize_pytorch import Codebook

from tokenizer.parts import QuantizerConfig
from tokenizer.quantizers import CosineVQConfig, ResidualVQConfig, VQConfig
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


@torch.no_grad()
@pytest.mark.parametrize(
    "config", [VQConfig(size=64, dim=6), CosineVQConfig(size=64, dim=6), ResidualVQConfig(size=64, dim=6, depth=1)]
)
def test_codes_live_where_a_step_has_few_vectors(config: QuantizerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A code used less than 0.1 times a step was dead. But with 8 vectors for 64 codes, the mean is 0.125: in every
    step a tenth of the codes was replaced, and a healthy codebook counted as little used."""
    replace, dead = Codebook.replace, []

    def counting(codebook: Codebook, vectors: torch.Tensor, batch_mask: torch.Tensor, **options: Any) -> None:
        dead.append(int(batch_mask.sum()))
        replace(codebook, vectors, batch_mask, **options)

    monkeypatch.setattr(Codebook, "replace", counting)
    torch.manual_seed(0)
    model = config.build(6).train()
    for codebook in (module for module in model.modules() if isinstance(module, Codebook)):
        codebook.cluster_size *= 0.125  # as later in training: at the start, it is 1
        codebook.embed_avg *= 0.125
    for step in range(200):
        if step == 150:
            dead.clear()
        model(torch.randn(1, 2, 4, 6))
    assert sum(dead) < 10  # in 50 steps
    assert model.health()["usage"] > 0.9
