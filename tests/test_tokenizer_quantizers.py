"""What every kind of quantizer promises, and what each computes."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import vector_quantize_pytorch
from torch import Tensor, nn

from tokenizer.entropy import bit_entropies, code_entropies
from tokenizer.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from tokenizer.parts import QUANTIZERS, Quantizer, QuantizerConfig
from tokenizer.quantizers import CosineVQConfig, FSQConfig, IBQConfig, LFQConfig, SimVQConfig
from tokenizer.vit import ViTConfig
from training.config import from_dict
from training.errors import BadInput

WIDTH = 40
Z = torch.randn(4, 6, 8, WIDTH, generator=torch.Generator().manual_seed(0))
KINDS = [kind for kind in QUANTIZERS.kinds if issubclass(QUANTIZERS[kind], QuantizerConfig)]  # `kl` has no codes


def config_of(kind: str) -> QuantizerConfig:
    """The default config, but for `vq`, whose codes are wider than the models here."""
    config = QUANTIZERS[kind](**({"dim": 16} if kind == "vq" else {}))
    assert isinstance(config, QuantizerConfig)
    return config


def quantizer(kind: str) -> Quantizer:
    torch.manual_seed(0)
    return config_of(kind).build(WIDTH)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_forward_agrees_with_vectors_nearest_and_lookup(kind: str, training: bool) -> None:
    model, config = quantizer(kind).train(training), config_of(kind)
    vectors = model.vectors(Z)
    expected = model.nearest(vectors)
    found = model.lookup(expected)  # before `forward`, which may move the codebook
    quantized, codes, losses = model(Z)
    assert vectors.shape == (*Z.shape[:3], config.dim)
    assert torch.equal(codes, expected)
    assert (codes.shape, codes.dtype) == ((4, 6, 8 * config.depth), torch.int64)
    assert 0 <= int(codes.min()) < int(codes.max()) < config.size
    torch.testing.assert_close(quantized, found, rtol=1e-4, atol=1e-5)
    assert all(loss.ndim == 0 and getattr(config, name) >= 0 for name, loss in losses.items())


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_vectors(kind: str) -> None:
    """From the quantized vectors, and from the losses."""
    model, z = quantizer(kind).train(), Z.clone().requires_grad_()
    quantized, _, losses = model(z)
    for one in (quantized.square().sum(), *([sum(losses.values())] if losses else [])):
        (gradient,) = torch.autograd.grad(one, z, retain_graph=True)
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_health_of_random_vectors(kind: str) -> None:
    """Random vectors use many codes from the start."""
    model, size = quantizer(kind).train(), config_of(kind).size
    for _ in range(3):
        _, codes, _ = model(Z)
    health = model.health()
    assert 1 / size <= health["usage"] <= 1
    assert 30 < health["perplexity"] <= size
    assert len(codes.unique()) > 30


@pytest.mark.parametrize("kind", KINDS)
def test_a_config_is_first_built_without_memory(kind: str) -> None:
    with torch.device("meta"):
        there = quantizer(kind).state_dict()
    here = quantizer(kind).state_dict()
    assert {name: (t.shape, t.dtype) for name, t in there.items()} == {
        name: (t.shape, t.dtype) for name, t in here.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_keeps_codes_pixels_and_ids(kind: str, tmp_path: Path) -> None:
    backbone = ViTConfig(patch_size=4, width=WIDTH, encoder_depth=1, decoder_depth=1, heads=2, pixel_width=4)
    torch.manual_seed(0)
    model = ImageTokenizer(ImageTokenizerConfig(image_size=16, backbone=backbone, quantizer=config_of(kind))).eval()
    pictures = torch.randint(0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    model.save_pretrained(tmp_path)
    again = ImageTokenizer.from_pretrained(tmp_path)
    codes = model.encode(pictures)
    assert torch.equal(again.encode(pictures), codes)
    assert torch.equal(again.decode(codes), model.decode(codes))
    assert (again.codes_id, again.pixels_id) == (model.codes_id, model.pixels_id)
    for change, changed in ((model.encoder, "codes_id"), (model.decoder, "pixels_id")):
        next(change.parameters()).data += 1
        assert getattr(model, changed) != getattr(again, changed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_learns_a_few_pictures(kind: str) -> None:
    """With codes of random lengths, `ibq` used five of them, and its pictures were little more than a mean."""
    torch.manual_seed(0)
    backbone = ViTConfig(patch_size=4, width=32, encoder_depth=1, decoder_depth=1, heads=2, pixel_width=4)
    config = ImageTokenizerConfig(image_size=16, backbone=backbone, quantizer=config_of(kind))
    model = ImageTokenizer(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    images = nn.functional.interpolate(torch.rand(4, 3, 4, 4), size=16, mode="bilinear") * 2 - 1
    for _ in range(60):
        made = model(images)
        error = (made.images - images).square().mean()
        terms = [getattr(config.quantizer, name) * loss for name, loss in made.losses.items()]
        optimizer.zero_grad()
        (error + sum(terms)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert error < 0.75 * images.var()


@pytest.mark.parametrize("kind", KINDS)
def test_only_tensors_that_matter_change_an_id(kind: str) -> None:
    """What is before the codes changes no pixels of given codes, and what is after them changes no codes."""
    model = quantizer(kind)
    vectors = model.vectors(Z)
    codes = model.nearest(vectors)
    found = model.lookup(codes)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        before = tensor.clone()
        tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
        if not f"{name}.".startswith(model.codes_tensors):
            assert torch.equal(model.nearest(model.vectors(Z)), codes), name
        if not f"{name}.".startswith(model.pixels_tensors):
            assert torch.equal(model.lookup(codes), found), name
        if not f"{name}.".startswith(model.latents_tensors):
            assert torch.equal(model.vectors(Z), vectors), name
        tensor.copy_(before)


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("fsq", {"levels": []}, "FSQConfig.levels is (): must be numbers from 3"),
        ("fsq", {"levels": [2, 8]}, "FSQConfig.levels is (2, 8): must be numbers from 3"),
        ("fsq", {"levels": [4096, 4097]}, "whose product is at most 16777216"),
        ("lfq", {"bits": 25}, "LFQConfig.bits is 25: must be from 1 to 24"),
        ("lfq", {"entropy": -1}, "LFQConfig.entropy is -1.0: must be 0 or more"),
        ("lfq", {"temperature": 0}, "LFQConfig.temperature is 0.0: must be above 0"),
        ("simvq", {"size": 1}, "SimVQConfig.size is 1: must be from 2 to 16777216"),
        ("simvq", {"commitment": -1}, "SimVQConfig.commitment is -1.0: must be 0 or more"),
        ("ibq", {"dim": 0}, "IBQConfig.dim is 0: must be from 1"),
        ("ibq", {"temperature": -0.1}, "IBQConfig.temperature is -0.1: must be above 0"),
        ("ibq", {"dim": 300}, "IBQConfig.dim is 300: must be at most the backbone's width 256"),
    ],
)
def test_impossible_options(kind: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as error:
        from_dict(ImageTokenizerConfig, {"quantizer": {"kind": kind, **options}})
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_fsq_rounds_each_dimension_to_its_levels() -> None:
    """Code and levels, one dimension at a time (arXiv 2309.15505, section 3.1), for levels whose steps are inexact."""
    config = FSQConfig(levels=(7, 5, 11, 6, 3))
    model = config.build(WIDTH).eval()
    codes = torch.arange(config.size)[None, None]
    level = [codes[0, 0] // math.prod(config.levels[:i]) % n for i, n in enumerate(config.levels)]
    values = torch.stack([(one - n // 2) / (n // 2) for one, n in zip(level, config.levels, strict=True)], -1)
    torch.testing.assert_close(model.lookup(codes)[0, 0], model.project_out(values))
    half = torch.tensor([(n - 1) * 1.001 / 2 for n in config.levels])
    even = torch.tensor([0.5 if n % 2 == 0 else 0 for n in config.levels])
    middle = torch.atanh((torch.stack(level, -1) - torch.tensor(config.levels) // 2 + even) / half)
    assert torch.equal(model.nearest((middle - torch.atanh(even / half))[None, None]), codes)


def test_lfq_agrees_with_the_library() -> None:
    config = LFQConfig(bits=7, temperature=0.5)
    model = config.build(WIDTH).train()
    reference = vector_quantize_pytorch.LFQ(dim=WIDTH, codebook_size=128)
    reference.load_state_dict(model.state_dict(), strict=False)
    quantized, codes, losses = model(Z)
    expected, terms = reference(Z.flatten(1, 2), inv_temperature=2, return_loss_breakdown=True)
    torch.testing.assert_close(quantized.flatten(1, 2), expected.quantized)
    torch.testing.assert_close(losses["entropy"], terms.per_sample_entropy, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(losses["diversity"], -terms.batch_entropy, rtol=1e-3, atol=1e-3)
    reverse = sum((codes.flatten(1) >> bit & 1) << (6 - bit) for bit in range(7))  # it has the highest bit first
    assert torch.equal(reverse, expected.indices.long())


def test_entropies_in_closed_form() -> None:
    """Fair bits, certain bits, and vectors that are certain of different codes."""
    ln2 = math.log(2)
    fair = bit_entropies(torch.zeros(5, 3))
    assert [one.item() for one in fair.values()] == pytest.approx([3 * ln2, -3 * ln2])
    certain = bit_entropies(torch.full((5, 3), 400.0))
    assert [one.item() for one in certain.values()] == pytest.approx([0, 0])
    spread = bit_entropies(torch.tensor([[900.0, -900.0, 900.0], [-900.0, -900.0, 900.0]]))
    assert [one.item() for one in spread.values()] == pytest.approx([0, -ln2])
    spread = code_entropies(torch.eye(4) * 900)
    assert [one.item() for one in spread.values()] == pytest.approx([0, -math.log(4)])


def test_entropies_of_bits_are_those_of_their_codes() -> None:
    logits = torch.randn(9, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    signs = torch.tensor([[(code >> bit & 1) - 0.5 for bit in range(5)] for code in range(32)])
    for one, other in zip(bit_entropies(logits).values(), code_entropies(logits @ signs.T).values(), strict=True):
        torch.testing.assert_close(one, other)
        gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (one, other)]
        torch.testing.assert_close(*gradients)


def test_certain_codes_have_finite_gradients() -> None:
    """The derivative of -p log p is infinite at 0, and a probability of 0 is common at a low temperature."""
    for entropies in (bit_entropies, code_entropies):
        logits = torch.tensor([[900.0, -900.0, 300.0]], requires_grad=True)
        sum(entropies(logits).values()).backward()  # type: ignore[union-attr]
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


def test_simvq_chooses_the_nearest_code_of_a_linear_map() -> None:
    model = SimVQConfig(size=60, dim=8).build(WIDTH)
    codebook = model.frozen_codebook @ model.code_transform.weight.T
    vectors = model.vectors(Z)
    distances = (vectors[..., None, :] - codebook).square().sum(-1)
    codes = model.nearest(vectors)
    assert torch.equal(codes, distances.argmin(-1))
    _, _, losses = model(Z)
    expected = 1.25 * (vectors - codebook[codes]).square().mean()
    torch.testing.assert_close(losses["codebook"], expected)
    assert not model.frozen_codebook.requires_grad


def test_index_backpropagation_reaches_all_codes() -> None:
    """The gradient of the quantized vectors is that of the chosen code plus that of the softmax (eq. 5 and 6)."""
    model = IBQConfig(size=50, dim=8).build(WIDTH)
    z = Z.clone().requires_grad_()
    quantized, codes, _ = model(z)
    found = torch.autograd.grad(quantized.square().sum(), (z, model.codebook))
    one_hot = nn.functional.one_hot(codes, 50).float()
    soft = (model.vectors(z) @ model.codebook.T).softmax(-1)
    expected = model.project_out((one_hot - soft.detach() + soft) @ model.codebook)
    torch.testing.assert_close(quantized, expected, rtol=1e-4, atol=1e-5)
    wanted = torch.autograd.grad(expected.square().sum(), (z, model.codebook))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    assert (found[1].abs().sum(1) > 0).all()
    assert len(codes.unique()) < 50


@pytest.mark.parametrize("config", [CosineVQConfig, SimVQConfig])
def test_rotation_is_an_option_of_training(config: Any) -> None:
    """Without it, a gradient passes the codes unchanged; with it, its length changes as that of the vectors."""

    def gradient(rotation: bool) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        model = config(size=50, dim=WIDTH, rotation=rotation).build(WIDTH).train()
        z = Z.clone().requires_grad_()
        direction = torch.randn(Z.shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            for name in ("project_in", "project_out"):
                if not isinstance(getattr(model, name), nn.Identity):
                    getattr(model, name).load_state_dict({"weight": torch.eye(WIDTH), "bias": torch.zeros(WIDTH)})
        quantized, _, _ = model(z)
        return quantized, torch.autograd.grad((quantized * direction).sum(), z)[0]

    (plain, copied), (turned, rotated) = gradient(False), gradient(True)
    torch.testing.assert_close(plain, turned, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(copied, rotated)
    assert "rotation" in config.training_only
    assert config().rotation


def test_usage_counts_the_last_hundred_steps() -> None:
    model = FSQConfig(levels=(5, 4)).build(WIDTH).train()
    for _ in range(20):
        model.count(torch.arange(10))
    health = model.health()
    assert health["usage"] == pytest.approx(0.5)
    assert health["perplexity"] == pytest.approx(10)
    model.count(torch.tensor([[15]]))
    assert model.health()["usage"] == pytest.approx(11 / 20)
    for _ in range(110):
        model.count(torch.arange(10))
    assert model.health()["usage"] == pytest.approx(0.5)
    model.eval().count(torch.arange(20))
    assert model.health()["usage"] == pytest.approx(0.5)
    again = FSQConfig(levels=(5, 4)).build(WIDTH)  # as in a run that is resumed
    again.load_state_dict(model.state_dict())
    assert again.health()["usage"] == model.health()["usage"]


def test_processes_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other of two processes uses other codes."""

    def all_reduce(tensor: Tensor) -> Tensor:
        return tensor.add_(tensor.flip(*range(tensor.ndim)))

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    model = LFQConfig(bits=2).build(WIDTH).train()
    model.count(torch.tensor([0]))
    assert (model.counts > 0).tolist() == [True, False, False, True]
    assert bit_entropies(torch.full((1, 3), 900.0))["diversity"].item() == pytest.approx(-math.log(2))
    assert code_entropies(torch.tensor([[900.0, 0]]))["diversity"].item() == pytest.approx(-math.log(2))
