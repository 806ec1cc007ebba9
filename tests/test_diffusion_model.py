"""The diffusion model: its inputs, its initial values, its size, its text encoders, and its files."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from tiny_models import IMAGES, TOKENS, captions, diffusion_model, save_text_encoder, text_tokenizer, token_model

from diffusion.condition import CaptionCache, mean_state
from diffusion.dit import DiTConfig
from diffusion.model import DiffusionModel, DiffusionModelConfig
from diffusion.options import DiffusionTrainingConfig
from diffusion.process import ProcessConfig
from diffusion.text import TextConfig, caption_ids, resolve_text_config
from diffusion.unet import UNetConfig
from seq2seq.model import TokenModel, TokenModelConfig
from tokenizer.text import NULL, PAD
from training.command_line import parse
from training.errors import BadInput
from training.hub import identity
from training.record import flop_counter

CONFIGS = Path(__file__).parents[1] / "configs"
UNET = UNetConfig(channels=(8, 16), layers=1, head_width=4, groups=4)
X = torch.randn(3, IMAGES.quantizer.dim, IMAGES.grid, IMAGES.grid, generator=torch.Generator().manual_seed(0))
T = torch.tensor([1.0, 40.0, 100.0])


def unet() -> DiffusionModelConfig:
    text = TextConfig(width=32, mlp_width=64, heads=2, depth=1, vocab_size=300)
    return DiffusionModelConfig(denoiser="unet", width=32, dit=DiTConfig(heads=2), unet=UNET, text=text, grid=4)


def test_an_untrained_model_predicts_zero() -> None:
    """By adaLN-zero, or the U-Net's last convolution. So the loss of an untrained model is the target's variance."""
    torch.manual_seed(0)
    model = DiffusionModel(diffusion_model().config).eval()
    assert not model(X, T, captions(3)).any()
    assert not DiffusionModel(unet()).eval()(torch.randn(3, 16, 4, 4), T, captions(3)).any()


def test_the_prediction_depends_on_latents_time_and_caption_but_not_on_padding_or_the_batch() -> None:
    model, text = diffusion_model(), captions(3)
    said = model(X, T, text)
    assert said.shape == X.shape
    assert (model(X + 0.1, T, text) - said).abs().max() > 1e-2
    assert (model(X, T + 20, text) - said).abs().max() > 1e-2
    assert (model(X, T, text.roll(1, 0)) - said).abs().max() > 1e-3
    longer = torch.cat([text, torch.full((3, 4), PAD)], dim=1)
    torch.testing.assert_close(model(X, T, longer), said, atol=1e-5, rtol=1e-5)
    alone = torch.cat([model(X[i : i + 1], T[i : i + 1], text[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(alone, said, atol=1e-5, rtol=1e-5)
    moved = model(X.roll(1, -1), T, text).roll(-1, -1)
    assert (moved - said).abs().max() > 1e-3  # it depends on positions


def test_the_mean_caption_state_ignores_padding() -> None:
    states = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]], [[1.0, 1.0], [2.0, 2.0], [6.0, 0.0]]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    torch.testing.assert_close(mean_state(states, mask), torch.tensor([[2.0, 4.0], [3.0, 1.0]]))


@pytest.mark.parametrize("denoiser", ["dit", "unet"])
def test_the_prediction_depends_on_the_mean_caption_state(denoiser: str) -> None:
    """It is added to the time embedding, so that attention need not find it first."""
    torch.manual_seed(0)
    model = DiffusionModel(dataclasses.replace(unet(), denoiser=denoiser)).eval()  # type: ignore[arg-type]
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, caption = torch.randn(3, 16, 4, 4), CaptionCache(captions(3))
    said = model(x, T, caption)
    caption.pooled = caption.pooled.roll(1, 0)
    other = model(x, T, caption)
    assert (other - said).abs().max() > 1e-4


def test_the_unet_reads_captions_too() -> None:
    torch.manual_seed(0)
    model = DiffusionModel(unet()).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x, text = torch.randn(3, 16, 4, 4), captions(3)
    said = model(x, T, text)
    assert said.shape == x.shape
    assert (model(x, T, text.roll(1, 0)) - said).abs().max() > 1e-4
    longer = torch.cat([text, torch.full((3, 4), PAD)], dim=1)
    torch.testing.assert_close(model(x, T, longer), said, atol=1e-5, rtol=1e-5)
    with pytest.raises(BadInput, match="has 2 resolutions: a grid of 3 cannot be halved so often"):
        DiffusionModel(dataclasses.replace(unet(), grid=3))


def test_learned_variance_doubles_the_channels() -> None:
    model = diffusion_model(ProcessConfig(steps=100, learned_variance=True))
    assert model(X, T, captions(3)).shape == (3, 2 * IMAGES.quantizer.dim, IMAGES.grid, IMAGES.grid)


def test_a_caption_cache_gives_the_same_prediction() -> None:
    model, text = diffusion_model(), captions(3)
    assert torch.equal(model(X, T, CaptionCache(text)), model(X, T, text))


@pytest.mark.parametrize("name", ["emoji", "parti-350m", "parti-750m", "parti-3b", "parti-20b"])
def test_presets_match_the_token_model_in_parameters(name: str) -> None:
    """Within 10 %, so that the two can be compared fairly."""
    token = TokenModelConfig(**yaml.safe_load((CONFIGS / "seq2seq" / f"{name}.yaml").read_text())["model"])
    flags = ["--out", "x", "--tokenizer", "x", "--text", "x", "--data", "x"]
    config = parse(DiffusionTrainingConfig, [*flags, "--config", str(CONFIGS / "diffusion" / f"{name}.yaml")]).model
    text = dataclasses.replace(config.text, vocab_size=token.text_vocab_size, length=token.text_length)
    configs = [dataclasses.replace(config, text=text)]
    if name == "emoji":  # the U-Net's defaults have the same size
        configs.append(dataclasses.replace(configs[0], denoiser="unet"))
    with torch.device("meta"):
        models = [TokenModel(token), *map(DiffusionModel, configs)]
    expected, *found = (sum(p.numel() for p in model.parameters()) for model in models)
    assert found == pytest.approx([expected] * len(found), rel=0.1)


def test_the_emoji_presets_take_the_same_compute() -> None:
    """Within 2 %, for captions of 18 ids, the average length of the longest caption in a batch of emoji."""
    shapes = {"text_vocab_size": 2000, "text_length": 40}
    token = yaml.safe_load((CONFIGS / "seq2seq" / "emoji.yaml").read_text())
    model = TokenModel(TokenModelConfig(**token["model"], **shapes))
    text, tokens = torch.ones(2, 18, dtype=torch.int64), torch.ones(2, 64, dtype=torch.int64)
    with flop_counter() as autoregressive:
        model(text, tokens).logsumexp(-1).sum().backward()
    flags = ["--out", "x", "--tokenizer", "x", "--text", "x", "--data", "x"]
    config = parse(DiffusionTrainingConfig, [*flags, "--config", str(CONFIGS / "diffusion" / "emoji.yaml")])
    vocabulary = dataclasses.replace(config.model.text, vocab_size=2000, length=40)
    denoiser = DiffusionModel(dataclasses.replace(config.model, text=vocabulary))
    with flop_counter() as diffusion:
        denoiser(torch.randn(2, 16, 8, 8), torch.ones(2), text).sum().backward()
    pictures = token["steps"] * token["batch_size"], config.steps * config.batch_size
    one, other = (n * c.get_total_flops() for n, c in zip(pictures, (autoregressive, diffusion), strict=True))
    assert other == pytest.approx(one, rel=0.02)


@pytest.mark.parametrize("denoiser", ["dit", "unet"])
def test_the_other_denoiser_s_options_do_not_identify_a_model(denoiser: str) -> None:
    """When a default of the U-Net changed, every diffusion transformer got another id, and none could be started
    from."""
    config = dataclasses.replace(unet(), denoiser=denoiser)  # type: ignore[arg-type]
    model = DiffusionModel(config)
    before = model.model_id
    for name, other in (("dit", {"depth": 3}), ("unet", {"groups": 2})):
        model.config = dataclasses.replace(config, **{name: dataclasses.replace(getattr(config, name), **other)})
        assert (model.model_id == before) == (name != denoiser)


def test_saving_and_loading_keep_the_model(tmp_path: Path) -> None:
    model = diffusion_model(latents_id="abc")
    model.save_pretrained(tmp_path)
    loaded = DiffusionModel.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(loaded(X, T, captions(3)), model(X, T, captions(3)))


def test_a_token_model_s_text_encoder_can_be_used_frozen(tmp_path: Path) -> None:
    text = text_tokenizer()
    config = dataclasses.replace(TOKENS, text_vocab_size=text.vocab_size, text_length=64, text_id=text.text_id)
    source = token_model(config)
    source.save_pretrained(tmp_path)
    settings, encoder = resolve_text_config(TextConfig(kind="seq2seq", source=str(tmp_path)), text)
    model = DiffusionModel(dataclasses.replace(diffusion_model().config, width=16, text=settings)).train()
    assert encoder is not None and model.text is not None
    model.text.encoder.load_state_dict(encoder.state_dict())
    ids = text.encode(["a noto emoji of a fox", None])
    assert not model.text.training
    assert not any(p.requires_grad for p in model.text.parameters())
    torch.testing.assert_close(model.text(ids)[0], source.encoder(ids, (ids != PAD)[:, None, None]))
    shutil.copytree(tmp_path, tmp_path / "moved")
    moved, _ = resolve_text_config(TextConfig(kind="seq2seq", source=str(tmp_path / "moved")), text)
    assert moved.source != settings.source
    assert identity(moved.source) == identity(settings.source)  # a resumed run compared its path
    token_model(dataclasses.replace(config, text_source="minilm")).save_pretrained(tmp_path / "frozen")
    with pytest.raises(BadInput, match="reads captions by minilm; take that, with kind transformers"):
        resolve_text_config(TextConfig(kind="seq2seq", source=str(tmp_path / "frozen")), text)
    other = dataclasses.replace(config, text_id="another")
    token_model(other).save_pretrained(tmp_path / "other")
    with pytest.raises(BadInput, match="was trained with text tokenizer another, but this one is"):
        resolve_text_config(TextConfig(kind="seq2seq", source=str(tmp_path / "other")), text)


def test_a_frozen_transformers_encoder_reads_captions(tmp_path: Path) -> None:
    save_text_encoder(tmp_path)
    text = text_tokenizer()
    settings, encoder = resolve_text_config(TextConfig(kind="transformers", source=str(tmp_path)), text)
    assert encoder is None
    assert settings.width == 16
    ids = caption_ids(settings, text, ["a fox", None])
    assert ids.tolist() == [[6, 7], [NULL, PAD]]
    model = DiffusionModel(dataclasses.replace(diffusion_model().config, text=settings))
    assert model(X[:2], T[:2], ids).shape == X[:2].shape
    assert [name for name in model.state_dict() if name.startswith("text.")] == ["text.encoder.null"]
    assert resolve_text_config(settings, text)[0] == settings


def test_the_null_caption_has_an_id() -> None:
    text = text_tokenizer()
    assert caption_ids(TextConfig(), text, [None]).tolist() == [[NULL]]


def test_configs_out_of_range() -> None:
    with pytest.raises(BadInput, match=r"source is 'hf://owner/name': must be absent with kind own"):
        TextConfig(source="hf://owner/name")  # which was trained without, and without a word
    with pytest.raises(BadInput, match=r"source is '': must be given with kind seq2seq"):
        TextConfig(kind="seq2seq")
    with pytest.raises(BadInput, match=r"channels is \(8, 12\): must be multiples of head_width and groups"):
        UNetConfig(channels=(8, 12), head_width=8, groups=4)
    with pytest.raises(BadInput, match=r"width is 30: must be a multiple of dit.heads 4"):
        DiffusionModelConfig(width=30)
