"""Ids: what names a model does not change because configs have learned a new field."""

import json
import sys
from dataclasses import field, make_dataclass
from pathlib import Path

import pytest
from tiny_models import add_diffusion, save_bundle

from data.codes import CodesInfo
from data.store import Store
from data.store_writer import begin, finish
from diffusion.model import DiffusionModel
from sampling import load, rerecord
from seq2seq.model import TokenModel
from tokenizer.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from tokenizer.vit import ViTConfig
from training.cli import command
from training.config import from_dict, stated
from training.pretrained import PretrainedModel

SHIPPED = Path(__file__).parent.parent / "checkpoints" / "emoji"
MODELS = {"tokenizer": ImageTokenizer, "autoregressive": TokenModel, "diffusion": DiffusionModel}


def with_a_new_field(kind: type[PretrainedModel], default: object = 3) -> type[PretrainedModel]:
    """The class as it would be, had its config a field more."""
    config = make_dataclass(
        kind.config_class.__name__, [("novelty", int, field(default=default))], bases=(kind.config_class,), kw_only=True
    )
    return type(kind.__name__, (kind,), {"config_class": config})


@pytest.mark.parametrize("part", MODELS)
def test_a_new_field_with_a_default_changes_no_id(part: str) -> None:
    kind = MODELS[part]
    now, later = (one.from_pretrained(SHIPPED / part) for one in (kind, with_a_new_field(kind)))
    names = ("codes_id", "pixels_id", "model_id") if part == "tokenizer" else ("model_id",)
    assert [getattr(now, name) for name in names] == [getattr(later, name) for name in names]
    later.config.novelty = 4
    assert [getattr(now, name) for name in names] != [getattr(later, name) for name in names]


def test_what_changes_how_a_model_learns_is_no_part_of_its_id() -> None:
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


def test_a_config_states_what_is_not_usual() -> None:
    model = TokenModel.from_pretrained(SHIPPED / "autoregressive")
    assert stated(model.config, but={"codes_id", "text_id"}) == {
        "decoder_depth": 4, "dropout": 0.0, "text_vocab_size": 1999, "text_length": 40,
    }  # fmt: skip


def test_the_old_ids_are_those_that_were_shipped() -> None:
    old = rerecord._old_codes_ids(ImageTokenizer.from_pretrained(SHIPPED / "tokenizer"))
    assert old == ["2f917167016f07e6", "dae77e93cc057d19"]


def test_a_config_from_before_image_tokenizers_had_parts() -> None:
    old = {"model": "ImageTokenizer", "image_size": 64, "patch_size": 8, "width": 32, "encoder_depth": 4,
           "decoder_depth": 6, "heads": 4, "pixel_width": 32, "codebook_size": 2048, "codebook_dim": 16}  # fmt: skip
    now = rerecord._with_parts(old)
    assert now.pop("model") == "ImageTokenizer"
    assert from_dict(ImageTokenizerConfig, now) == ImageTokenizerConfig(backbone=ViTConfig(width=32))
    run = rerecord._with_parts({"data": "x", "model": old, "loss": {"l1": 1.0, "commitment": 0.25}})
    assert (run["loss"], run["model"]["quantizer"]["commitment"]) == ({"l1": 1.0}, 0.25)
    for values in (run, {"model": "TokenModel", "codebook_size": 20}):
        assert rerecord._with_parts(values) == values


def test_what_was_recorded_under_old_ids_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = save_bundle(tmp_path / "bundle")
    add_diffusion(bundle)
    tokenizer = ImageTokenizer.from_pretrained(bundle / "tokenizer")
    old, new = "0123456789abcdef", tokenizer.codes_id
    monkeypatch.setattr(rerecord, "_old_codes_ids", lambda model: [old])
    info = CodesInfo(
        codes_id=old, codebook_size=20, rows=4, columns=4, views=1, seed=0, source="s", fingerprint="f"
    )  # fmt: skip
    begin(tmp_path / "run" / "codes" / "train", info, [])
    finish(tmp_path / "run" / "codes" / "train", info)
    (tmp_path / "run" / "data.json").write_text(json.dumps({"train": {"codes_id": old, "views": 1}}))
    for part in ("autoregressive", "diffusion"):
        file = bundle / part / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "codes_id": old}))
    with pytest.raises(Exception, match=f"was trained with image tokenizer {old}"):
        load(bundle)

    for _ in range(2):  # the second time there is nothing to do
        monkeypatch.setattr(sys, "argv", rerecord.spelled(["rerecord", str(tmp_path)]))
        command(rerecord.main, rerecord.RerecordOptions)
    assert capsys.readouterr().out.splitlines()[-1].startswith("0 files")
    assert load(bundle).tokenizer.codes_id == new
    assert Store(tmp_path / "run" / "codes" / "train", CodesInfo).info.codes_id == new
    assert json.loads((tmp_path / "run" / "data.json").read_text())["train"] == {"codes_id": new, "views": 1}
