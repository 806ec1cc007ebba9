"""The quantizer with several codes of a place, and what the token model makes of them."""

import dataclasses
from typing import Any

import pytest
import torch
import vector_quantize_pytorch
from einops import rearrange
from tiny_models import IMAGES, TOKENS, captions, token_model

from sampling.backend import Start
from sampling.decode import Sampler
from sampling.options import SamplingOptions
from sampling.token_backend import known_tokens
from seq2seq.loss import log_likelihood
from tokenizer.image_tokenizer import ImageTokenizer
from tokenizer.quantizers import ResidualVQConfig
from tokenizer.residual_vq import ResidualVQ
from training.config import from_dict
from training.errors import BadInput

Z = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
DEEP = dataclasses.replace(TOKENS, depth=2)


def quantizer(**options: Any) -> ResidualVQ:
    torch.manual_seed(0)
    made = ResidualVQ(6, ResidualVQConfig(**{"size": 40, "dim": 6, "depth": 3, **options}))
    for scale, layer in enumerate(made.layers, 1):
        layer._codebook.embed.normal_(std=1 / scale)
    return made


def tokenizer() -> ImageTokenizer:
    torch.manual_seed(0)
    return ImageTokenizer(dataclasses.replace(IMAGES, quantizer=ResidualVQConfig(size=20, dim=4, depth=2))).eval()


@torch.no_grad()
def test_codes_are_those_of_the_library() -> None:
    """In a row, all codes of the first place come before those of the second."""
    model = quantizer().eval()
    library = vector_quantize_pytorch.ResidualVQ(dim=6, codebook_size=40, num_quantizers=3).eval()
    for mine, theirs in zip(model.layers, library.layers, strict=True):
        theirs._codebook.embed.copy_(mine._codebook.embed)
    vectors = model.vectors(Z)
    quantized, codes, losses = library(vectors.flatten(1, 2))
    assert torch.equal(model.nearest(vectors), codes.view(2, 3, 4 * 3))
    torch.testing.assert_close(model.lookup(codes.view(2, 3, 12)), model.project_out(quantized.view(2, 3, 4, 6)))
    assert losses.shape == (3,)


def test_the_commitment_loss_and_its_gradient() -> None:
    """The mean square of what is left after each depth, with no gradient to codes (arXiv 2203.01941, eq. 7)."""
    model = quantizer().train()
    vectors = model.vectors(Z)
    codes = rearrange(model.nearest(vectors), "b h (w n) -> n b h w", n=3)
    sums = torch.stack([layer.codebook[one] for layer, one in zip(model.layers, codes, strict=True)]).cumsum(0)
    expected = (vectors - sums).square().mean()
    commitment = model(Z)[2]["commitment"]
    torch.testing.assert_close(commitment, expected)
    of = model.project_in.weight
    torch.testing.assert_close(*(torch.autograd.grad(one, of, retain_graph=True)[0] for one in (commitment, expected)))


@pytest.mark.parametrize("rotation", [True, False])
def test_gradients_pass_once_whatever_the_depth(rotation: bool) -> None:
    """The library passes them once for each depth: at depth 3, three times as large."""
    model = quantizer(rotation=rotation).train()
    before = [layer.codebook.clone() for layer in model.layers]
    z = Z.clone().requires_grad_()
    quantized, _, _ = model(z)
    quantized.sum().backward()
    copied = model.project_out.weight.sum(0) @ model.project_in.weight  # what a straight-through gradient is
    assert torch.allclose(z.grad, copied.expand_as(z), atol=1e-5) == (not rotation)
    assert not any(torch.equal(layer.codebook, old) for layer, old in zip(model.layers, before, strict=True))


def test_health_is_that_of_the_depth_that_uses_the_fewest_codes() -> None:
    model = quantizer(size=4, depth=2)
    for layer, counts in zip(model.layers, ([1.0, 1, 1, 1], [1.0, 1, 0, 0]), strict=True):
        layer._codebook.cluster_size.copy_(torch.tensor([counts]))
    health = {name: value.item() for name, value in model.health().items()}
    expected = {"usage": 0.5, "perplexity": 2, "usage_1": 1, "perplexity_1": 4, "usage_2": 0.5, "perplexity_2": 2}
    assert health == pytest.approx(expected)


@pytest.mark.parametrize("depth", [0, 17])
def test_impossible_depths(depth: int) -> None:
    with pytest.raises(BadInput, match=f"ResidualVQConfig.depth is {depth}: must be from 1 to 16"):
        from_dict(ResidualVQConfig, {"depth": depth})


def test_pictures_of_several_codes_a_place() -> None:
    model = tokenizer()
    pictures = torch.randint(0, 256, (2, 3, 12, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    model.calibrate([pictures])
    codes = model.encode(pictures)
    assert (codes.shape, model.columns) == ((2, 3, 6), 6)
    assert model.latents(pictures).shape == (2, 4, 3, 3)
    assert torch.equal(model.decode_latents(model.latents(pictures)), model.decode(codes))
    assert model.decode(codes[:, :2]).shape == (2, 3, 8, 12)
    with pytest.raises(BadInput, match=r"must be int64 \(B, h, 6\) with h from 1 to 3"):
        model.decode(codes[:, :, :3])
    deepest = codes.clone()
    deepest[..., 1::2] = (codes[..., 1::2] + 1) % 20
    assert not torch.equal(model.decode(deepest), model.decode(codes))


def test_depth_is_part_of_the_ids() -> None:
    """Codebooks of the second depth change codes and pixels."""
    one, other = tokenizer(), tokenizer()
    other.quantizer.layers[1]._codebook.embed += 1
    assert one.codes_id != other.codes_id
    assert one.pixels_id != other.pixels_id
    assert one.latents_id == other.latents_id


def test_a_mask_frees_all_codes_of_a_place() -> None:
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[5, 6] = True  # one pixel of the place in the middle
    image = torch.zeros(3, 12, 12, dtype=torch.uint8)
    for start, free in ((Start(image=image, mask=mask), [8, 9]), (Start(image=image, strength=0.34), [*range(12, 18)])):
        assert (known_tokens(start, tokenizer())[0] == -1).nonzero().flatten().tolist() == free


@torch.no_grad()
def test_the_token_model_reads_rows_of_all_codes() -> None:
    """It may end after whole rows alone, and knows each column."""
    model, text = token_model(DEEP), captions(2)
    assert (DEEP.columns, DEEP.length) == (6, 18)
    tokens = torch.randint(20, (2, 18), generator=torch.Generator().manual_seed(0))
    logits = model(text, tokens)
    assert (logits[0, :, DEEP.eos] > -torch.inf).nonzero().flatten().tolist() == [6, 12, 18]
    assert len(model.decoder.positions(torch.arange(18)).unique(dim=0)) == 18
    assert log_likelihood(logits, tokens, DEEP.eos).isfinite().all()


@pytest.mark.parametrize("window", [0, 4])
def test_drawn_tokens_are_those_of_teacher_forcing(window: int) -> None:
    """At temperature 0 each is the most likely one, also in parallel; a stream yields the same rows."""
    model, text, seeds = token_model(DEEP), captions(3), torch.arange(3)
    sampler = Sampler(model, "plain")
    drawn = sampler.draw(text, seeds, SamplingOptions(temperature=0.0, guidance=1.0, parallel=window))
    *_, last = sampler.rows(text, seeds, SamplingOptions(temperature=0.0, guidance=1.0))
    for i, (codes, streamed) in enumerate(zip(drawn, sampler.pictures(last), strict=True)):
        assert codes.shape[1] == 6
        assert torch.equal(codes, streamed)
        with torch.no_grad():
            expected = model(text[i : i + 1], codes.view(1, -1))[0].argmax(-1)
        assert torch.equal(codes.flatten(), expected[: codes.numel()])
