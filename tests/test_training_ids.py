"""Ids of models do not change when configs get new fields."""

from dataclasses import field, make_dataclass
from pathlib import Path

import pytest

from diffusion.model import DiffusionModel
from seq2seq.model import TokenModel
from tokenizer.image_tokenizer import ImageTokenizer
from training.config import non_defaults
from training.pretrained import PretrainedModel

SHIPPED = Path(__file__).parent.parent / "checkpoints" / "emoji"
MODELS = {"tokenizer": ImageTokenizer, "autoregressive": TokenModel, "diffusion": DiffusionModel}


def with_a_new_field(kind: type[PretrainedModel], default: object = 3) -> type[PretrainedModel]:
    """The class with one more config field."""
    config = make_dataclass(
        kind.config_class.__name__, [("novelty", int, field(default=default))], bases=(kind.config_class,), kw_only=True
    )
    return type(kind.__name__, (kind,), {"config_class": config})


@pytest.mark.parametrize("part", MODELS)
def test_a_new_field_with_a_default_changes_no_id(part: str) -> None:
    kind = MODELS[part]
    now, later = (one.from_pretrained(SHIPPED / part) for one in (kind, with_a_new_field(kind)))
    names = ("codes_id", "latents_id", "pixels_id", "model_id") if part == "tokenizer" else ("model_id",)
    assert [getattr(now, name) for name in names] == [getattr(later, name) for name in names]
    later.config.novelty = 4
    assert [getattr(now, name) for name in names] != [getattr(later, name) for name in names]


def test_training_only_options_change_no_id() -> None:
    model = TokenModel.from_pretrained(SHIPPED / "autoregressive")
    before = model.model_id
    model.config.dropout = 0.3
    assert model.model_id == before
    model.config.heads = 2
    assert model.model_id != before
    denoiser = DiffusionModel.from_pretrained(SHIPPED / "diffusion")
    before = denoiser.model_id
    denoiser.config.process.times_mean += 1
    denoiser.config.dit.dropout = 0.5
    assert denoiser.model_id == before
    denoiser.config.process.target = "noise"
    assert denoiser.model_id != before


def test_non_defaults_of_a_shipped_model() -> None:
    model = TokenModel.from_pretrained(SHIPPED / "autoregressive")
    assert non_defaults(model.config, exclude={"codes_id", "text_id"}) == {
        "decoder_depth": 4, "dropout": 0.0, "text_vocab_size": 3831, "text_length": 40,
    }  # fmt: skip
