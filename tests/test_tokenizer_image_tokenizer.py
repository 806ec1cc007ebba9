"""The image tokenizer: pictures, codes, latents, and the two ids."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion.model import DiffusionModelConfig
from seq2seq.model import TokenModelConfig
from tokenizer.image_tokenizer import ImageTokenizer, ImageTokenizerConfig, require_matching_grid, to_float, to_uint8
from tokenizer.quantizers import CosineVQConfig
from tokenizer.vit import ViTConfig
from training.config import from_dict
from training.errors import BadInput
from training.precision import tf32_settings
from training.pretrained import exported

CONFIG = ImageTokenizerConfig(
    image_size=16,
    backbone=ViTConfig(patch_size=4, width=32, encoder_depth=1, decoder_depth=2, heads=2, pixel_width=4),
    quantizer=CosineVQConfig(size=300, dim=8),
)
PICTURES = torch.randint(0, 256, (24, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def tokenizer(config: ImageTokenizerConfig = CONFIG) -> ImageTokenizer:
    torch.manual_seed(0)
    return ImageTokenizer(config).eval()


@pytest.fixture
def model() -> ImageTokenizer:
    return tokenizer()


@pytest.fixture
def calibrated(model: ImageTokenizer) -> ImageTokenizer:
    model.calibrate(PICTURES.split(10))
    return model


def lookup_vectors(model: ImageTokenizer) -> Tensor:
    """The vectors that the quantizer compares with codes, computed from its parts: (N, C)."""
    z = model.quantizer.project_in(model.encoder(PICTURES.float() / 127.5 - 1))
    return z.flatten(0, 2).detach()


def test_shapes_and_dtypes(model: ImageTokenizer) -> None:
    codes = model.encode(PICTURES)
    assert (codes.shape, codes.dtype) == ((24, 4, 4), torch.int64)
    assert 0 <= int(codes.min()) < int(codes.max()) < 300
    pictures = model.decode(codes)
    assert (pictures.shape, pictures.dtype) == ((24, 3, 16, 16), torch.uint8)
    latents = model.latents(PICTURES)
    assert (latents.shape, latents.dtype) == ((24, 8, 4, 4), torch.float32)
    assert model.decode_latents(latents).dtype == torch.uint8
    assert not any(made.requires_grad for made in (codes, pictures, latents))


def test_pixels_round_trip_through_floats() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(levels)), levels)
    assert to_float(levels).min() == -1
    assert to_float(levels).max() == 1
    assert to_uint8(torch.tensor([-3.0, 3.0, -1.0, 1.0])).tolist() == [0, 255, 0, 255]
    assert to_uint8(torch.tensor([9.6, 10.4]) / 127.5 - 1).tolist() == [10, 10]


def test_codes_are_the_nearest_by_cosine_similarity(model: ImageTokenizer) -> None:
    """Compares one vector with one code at a time, in double precision."""
    codebook = model.quantizer._codebook.embed[0].double()
    expected = [
        max(range(300), key=lambda k: float(F.cosine_similarity(vector, codebook[k], dim=0)))
        for vector in lookup_vectors(model)[:64].double()
    ]
    assert model.encode(PICTURES).flatten()[:64].tolist() == expected


def test_encode_gives_the_codes_of_the_training_quantizer(model: ImageTokenizer) -> None:
    quantized, codes, losses = model.quantizer(model.encoder(to_float(PICTURES)))
    assert torch.equal(model.encode(PICTURES), codes)
    torch.testing.assert_close(model.quantizer.lookup(codes), quantized)
    assert losses["commitment"].ndim == 0


def test_the_forward_pass_equals_encode_then_decode(model: ImageTokenizer) -> None:
    made = model(to_float(PICTURES))
    assert torch.equal(made.codes, model.encode(PICTURES))
    assert torch.equal(to_uint8(made.images), model.decode(made.codes))


def test_training_reaches_the_encoder_through_the_codes(model: ImageTokenizer) -> None:
    model.train()
    before = model.quantizer.codebook.clone()
    made = model(to_float(PICTURES))
    made.images.square().mean().backward()
    assert model.encoder.embed.weight.grad.abs().sum() > 0
    assert not torch.equal(model.quantizer.codebook, before)


def test_latents_decode_to_the_same_pixels_as_codes(calibrated: ImageTokenizer) -> None:
    pictures = calibrated.decode(calibrated.encode(PICTURES))
    assert torch.equal(calibrated.decode_latents(calibrated.latents(PICTURES)), pictures)
    assert not torch.equal(pictures[0], pictures[1])


def test_latents_are_standardised_by_calibration(calibrated: ImageTokenizer) -> None:
    z = calibrated.latents(PICTURES).transpose(0, 1).flatten(1)
    torch.testing.assert_close(z.mean(1), torch.zeros(8), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.std(1), torch.ones(8), rtol=0, atol=1e-5)
    uncalibrated = tokenizer().latents(PICTURES)
    torch.testing.assert_close(uncalibrated.norm(dim=1), torch.ones(24, 4, 4))
    assert calibrated.codes_id == tokenizer().codes_id


@pytest.mark.parametrize("rows", [1, 3])
def test_fewer_rows_make_a_shorter_picture(calibrated: ImageTokenizer, rows: int) -> None:
    codes = calibrated.encode(PICTURES)[:, :rows]
    pictures = calibrated.decode(codes)
    assert pictures.shape == (24, 3, 4 * rows, 16)
    latents = calibrated.latents(PICTURES)[:, :, :rows]
    assert torch.equal(calibrated.decode_latents(latents), pictures)


def test_an_empty_batch(model: ImageTokenizer) -> None:
    codes = model.encode(PICTURES[:0])
    assert codes.shape == (0, 4, 4)
    assert model.decode(codes).shape == (0, 3, 16, 16)


def test_pictures_of_a_batch_do_not_affect_each_other(model: ImageTokenizer) -> None:
    codes = model.encode(PICTURES)
    assert torch.equal(torch.cat([model.encode(picture[None]) for picture in PICTURES]), codes)


def test_autocast_changes_no_code(calibrated: ImageTokenizer) -> None:
    """Under autocast, the matrix product of the lookup ran in bfloat16 and changed 2 % of the codes."""
    pictures = torch.cat([PICTURES] * 4)
    expected = calibrated.encode(pictures), calibrated.latents(pictures)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(calibrated.encode(pictures), expected[0])
        assert torch.equal(calibrated.latents(pictures), expected[1])


@pytest.mark.parametrize(
    "pictures",
    [
        PICTURES.float(),
        PICTURES.long(),
        PICTURES[0],
        PICTURES[:, :1],
        PICTURES[..., :12],
        PICTURES[:, :, :12],
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
        PICTURES.permute(0, 2, 3, 1),
    ],
    ids=["float", "int64", "no batch", "grey", "narrow", "low", "large", "channels last"],
)
@pytest.mark.parametrize("method", ["encode", "latents"])
def test_wrong_pictures(model: ImageTokenizer, method: str, pictures: Tensor) -> None:
    with pytest.raises(BadInput, match=r"must be uint8 \(B, 3, 16, 16\)"):
        getattr(model, method)(pictures)


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        (torch.zeros(1, 4, 4), "must be int64"),
        (torch.zeros(1, 4, 4, dtype=torch.uint8), "must be int64"),
        (torch.zeros(1, 4, 4, dtype=torch.bool), "must be int64"),
        (torch.zeros(1, 16, dtype=torch.int64), "(B, h, 4) with h from 1 to 4"),
        (torch.zeros(1, 4, 3, dtype=torch.int64), "(B, h, 4) with h from 1 to 4"),
        (torch.zeros(1, 5, 4, dtype=torch.int64), "(B, h, 4) with h from 1 to 4"),
        (torch.zeros(1, 0, 4, dtype=torch.int64), "(B, h, 4) with h from 1 to 4"),
        (torch.full((1, 4, 4), 300), "codes must be from 0 to 299"),
        (torch.full((1, 4, 4), -1), "codes must be from 0 to 299"),
    ],
)
def test_wrong_codes(model: ImageTokenizer, codes: Tensor, said: str) -> None:
    with pytest.raises(BadInput) as error:
        model.decode(codes)
    assert said in str(error.value)


@pytest.mark.parametrize("shape", [(1, 7, 4, 4), (1, 8, 5, 4), (1, 8, 4, 3), (8, 4, 4), (1, 4, 4, 8)])
def test_wrong_latents(model: ImageTokenizer, shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match=r"must be \(B, 8, h, 4\) with h from 1 to 4"):
        model.decode_latents(torch.zeros(shape))


@torch.no_grad()
def nudge(tensor: Tensor) -> None:
    tensor.flatten()[0] += 1


Nudge = Callable[[ImageTokenizer], None]
NUDGES: dict[str, tuple[Nudge, set[str]]] = {
    "encoder": (lambda m: nudge(m.encoder.embed.weight), {"codes_id", "latents_id"}),
    "project_in": (lambda m: nudge(m.quantizer.project_in.weight), {"codes_id", "latents_id"}),
    "codebook": (lambda m: nudge(m.quantizer._codebook.embed), {"codes_id", "pixels_id"}),
    "project_out": (lambda m: nudge(m.quantizer.project_out.bias), {"pixels_id"}),
    "decoder": (lambda m: nudge(m.decoder.head[2].bias), {"pixels_id"}),
    "latent mean": (lambda m: nudge(m.latent_mean), {"latents_id"}),
    "latent deviation": (lambda m: nudge(m.latent_std), {"latents_id"}),
    "codebook's moving average": (lambda m: nudge(m.quantizer._codebook.embed_avg), set()),
}


@pytest.mark.parametrize(("change", "changed"), NUDGES.values(), ids=NUDGES.keys())
def test_ids_change_with_what_decides_codes_latents_and_pixels(
    model: ImageTokenizer, change: Nudge, changed: set[str]
) -> None:
    before = model.ids
    change(model)
    assert {name for name, value in model.ids.items() if value != before[name]} == changed


@pytest.mark.parametrize(
    ("field", "codes", "pixels"),
    [
        ("backbone.decoder_depth", False, True),
        ("backbone.pixel_width", False, True),
        ("backbone.encoder_depth", True, False),
        ("backbone.heads", True, True),
        ("quantizer.commitment", False, False),
    ],
)
def test_a_larger_decoder_keeps_the_codes(field: str, codes: bool, pixels: bool) -> None:
    """In Parti's second stage, the decoder grows but codes stay, so stores of codes must stay valid."""
    small = tokenizer()
    part, name = field.split(".")
    its = getattr(CONFIG, part)
    larger = dataclasses.replace(its, **{name: 2 * getattr(its, name)})
    large = tokenizer(dataclasses.replace(CONFIG, **{part: larger}))
    shapes = {name: tensor.shape for name, tensor in large.state_dict().items()}
    shared = {name: t for name, t in small.state_dict().items() if shapes.get(name) == t.shape}
    large.load_state_dict(shared, strict=False)
    assert (large.codes_id != small.codes_id, large.pixels_id != small.pixels_id) == (codes, pixels)


def test_the_ids_differ(model: ImageTokenizer) -> None:
    assert model.ids == {name: getattr(model, name) for name in ("codes_id", "latents_id", "pixels_id")}
    assert len({*model.ids.values()}) == 3
    assert len(model.codes_id) == 16


def test_export_save_and_load_keep_codes_pixels_and_ids(calibrated: ImageTokenizer, tmp_path: Path) -> None:
    before = calibrated.codes_id
    calibrated.load_state_dict(exported(calibrated))
    assert calibrated.codes_id != before  # rounded weights change codes
    calibrated.calibrate([PICTURES])
    codes = calibrated.encode(PICTURES)
    pictures, ids = calibrated.decode(codes), (calibrated.codes_id, calibrated.pixels_id)
    calibrated.to(torch.bfloat16).save_pretrained(tmp_path)
    again = ImageTokenizer.from_pretrained(tmp_path)
    assert again.encoder.embed.weight.dtype == torch.float32
    assert (again.codes_id, again.pixels_id) == ids
    assert again.ids == calibrated.ids  # of the rounded constants
    assert torch.equal(again.encode(PICTURES), codes)
    assert torch.equal(again.decode(codes), pictures)
    assert torch.equal(again.decode_latents(again.latents(PICTURES)), pictures)
    again.save_pretrained(tmp_path / "again")
    assert ImageTokenizer.from_pretrained(tmp_path / "again").ids == again.ids
    assert json.loads((tmp_path / "config.json").read_text())["quantizer"]["size"] == 300


def test_codes_latents_and_pixels_are_computed_without_tf32(model: ImageTokenizer) -> None:
    """On a GPU, convolutions had 10 bits of mantissa, although all is said to be in float32."""
    allowed: list[bool] = []
    for part in (model.encoder, model.decoder):
        part.register_forward_pre_hook(
            lambda *_: allowed.append(any(getattr(part, name) != off for part, name, off in tf32_settings()))
        )
    model.decode(model.encode(PICTURES))
    model.decode_latents(model.latents(PICTURES))
    model.reconstruct(PICTURES)
    assert len(allowed) == 6
    assert not any(allowed)


def test_statistics_of_the_codebook(model: ImageTokenizer) -> None:
    counts = model.quantizer._codebook.cluster_size
    counts.zero_()
    counts[0, :30] = 2.0
    health = model.quantizer.health()
    assert health["usage"].item() == pytest.approx(0.1)
    assert health["perplexity"].item() == pytest.approx(30, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"backbone": {"patch_size": 5}}, "ImageTokenizerConfig.image_size is 16: must be a multiple of 5"),
        ({"image_size": 4}, "ImageTokenizerConfig.image_size is 4: must be a multiple of 8, the pixels a code"),
        ({"backbone": {"heads": 3}}, "ViTConfig.width is 256: must be a multiple of heads 3"),
        ({"backbone": {"patch_size": 0}}, "ViTConfig.patch_size is 0: must be from 1 to 16384"),
        ({"quantizer": {"size": 1}}, "CosineVQConfig.size is 1: must be from 2"),
        ({"quantizer": {"dim": 257}}, "CosineVQConfig.dim is 257: must be at most the backbone's width 256"),
        ({"quantizer": {"commitment": -1}}, "CosineVQConfig.commitment is -1.0: must be 0 or more"),
    ],
)
def test_impossible_shapes(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as error:
        from_dict(ImageTokenizerConfig, {"image_size": 16, **options})
    assert said in str(error.value)


def test_a_grid_that_a_preset_sets_is_not_overwritten() -> None:
    """A preset for pictures of 32 x 32 codes was trained on 8 x 8, without a message."""
    require_matching_grid(TokenModelConfig(), 16)  # the default: no grid is set
    require_matching_grid(TokenModelConfig(grid=32), 32)
    for config in (TokenModelConfig(grid=32), DiffusionModelConfig(grid=32)):
        with pytest.raises(BadInput, match="grid is 32, but the image tokenizer makes 8 rows"):
            require_matching_grid(config, 8)
