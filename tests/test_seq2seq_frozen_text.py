"""A frozen text encoder of `transformers`, which reads captions instead of an own one."""

import dataclasses
import hashlib
from pathlib import Path

import pytest
import torch
from test_seq2seq_train import _fresh_accelerator, fit, parts  # noqa: F401
from tiny_models import TOKENS, save_text_encoder, text_tokenizer

from sampling import SamplingOptions, load
from seq2seq.frozen_text import FrozenText, caption_ids, resolved, transformers_encoder
from seq2seq.model import TokenModel, null_caption
from tokenizer.text import NULL, PAD
from training.errors import BadInput


@pytest.fixture
def source(tmp_path: Path) -> str:
    save_text_encoder(tmp_path / "encoder")
    return resolved(str(tmp_path / "encoder"))[0]


def test_its_ids_come_after_the_special_ones(source: str) -> None:
    """Its tokenizer knows two words, `a` 2 and `fox` 3; 1 stands for others; an empty caption has no ids."""
    ids = caption_ids(source, text_tokenizer(), ["a fox", "a cat", "", None])
    assert ids.shape == (4, text_tokenizer().config.max_length)
    assert ids[:, :3].tolist() == [[6, 7, PAD], [6, 5, PAD], [4, PAD, PAD], [NULL, PAD, PAD]]
    assert not ids[:, 3:].any()
    assert torch.equal(caption_ids("", text_tokenizer(), ["a fox"]), text_tokenizer().encode(["a fox"]))


def test_states_are_those_of_transformers_but_for_the_null_caption(source: str) -> None:
    frozen = FrozenText(source, 16)
    frozen.null.data.fill_(0.5)
    ids = caption_ids(source, text_tokenizer(), ["a fox", None])
    states = frozen(ids)
    model = transformers_encoder(source).model
    expected = model(input_ids=torch.tensor([[2, 3]])).last_hidden_state
    torch.testing.assert_close(states[:1, :2], expected)
    assert (states[1, 0] == 0.5).all()
    assert list(frozen.state_dict()) == ["null"]
    with pytest.raises(BadInput, match="its states have width 16, the model takes 8"):
        FrozenText(source, 8)(ids)


def test_the_version_of_the_weights_is_part_of_the_source(source: str, tmp_path: Path) -> None:
    digest = hashlib.sha256((tmp_path / "encoder" / "model.safetensors").read_bytes()).hexdigest()
    assert source == f"{tmp_path / 'encoder'}@sha256:{digest}"
    assert resolved(source) == (source, 16)
    with pytest.raises(BadInput, match="has other weights than the model was trained with"):
        transformers_encoder(f"{tmp_path / 'encoder'}@sha256:{digest[::-1]}")
    with pytest.raises(BadInput, match="no such folder; a model on the Hub is given as hf://owner/name"):
        resolved(str(tmp_path / "nothing"))
    (tmp_path / "encoder" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(BadInput, match="no text encoder of transformers is there"):
        resolved(str(tmp_path / "encoder"))


def test_a_token_model_depends_on_the_frozen_states_and_trains_the_null_caption(source: str) -> None:
    torch.manual_seed(0)
    model = TokenModel(dataclasses.replace(TOKENS, text_source=source, text_states=16))
    ids = caption_ids(source, text_tokenizer(), ["a fox", "a cat"])[:, : TOKENS.text_length]
    tokens = torch.zeros(2, TOKENS.length, dtype=torch.long)
    logits = model(ids, tokens)[..., :-1]
    assert not torch.allclose(logits[0, :-1], logits[1, :-1])
    model(null_caption(ids), tokens)[..., 0].sum().backward()
    (null,) = (parameter for name, parameter in model.named_parameters() if name.endswith("null"))
    assert null.grad is not None
    assert null.grad.any()


def test_a_run_continues_after_the_encoder_has_moved(tmp_path: Path, parts: list[str], source: str) -> None:  # noqa: F811
    """Its path is part of the config, so the run was refused as one with another config, although the encoder's hash
    identifies it."""
    fit(tmp_path / "run", parts, "--model.text_source", source.partition("@")[0])
    (tmp_path / "encoder").rename(tmp_path / "moved")
    fit(tmp_path / "run", parts, "--steps", "3", "--model.text_source", str(tmp_path / "moved"))
    with pytest.raises(BadInput, match="encoder: the model reads captions by the text encoder that was"):
        transformers_encoder(source)
    moved = source.replace("encoder@", "moved@")
    model = load(tmp_path / "run" / "bundle").models["autoregressive"]
    assert model.config.text_source == moved
    name = model.model_id
    model.config = dataclasses.replace(model.config, text_source=source)
    assert model.model_id == name
    model.config = dataclasses.replace(model.config, text_source=moved[:-1] + "-")
    assert model.model_id != name
    first = ["--init", str(tmp_path / "run" / "model")]
    (tmp_path / "moved").rename(tmp_path / "encoder")
    fit(tmp_path / "second", [*parts, *first], "--model.text_source", str(tmp_path / "encoder"))
    torch.manual_seed(1)
    save_text_encoder(tmp_path / "encoder")
    with pytest.raises(BadInput, match=r"run: holds a run with another config \(model.text_source: '.*moved@sha256:"):
        fit(tmp_path / "run", parts, "--steps", "4", "--model.text_source", str(tmp_path / "encoder"))


def test_a_token_model_is_trained_and_drawn_with_it(tmp_path: Path, parts: list[str], source: str) -> None:  # noqa: F811
    fit(tmp_path / "run", parts, "--model.text_source", source.partition("@")[0])
    bundle = load(tmp_path / "run" / "bundle")
    config = bundle.models["autoregressive"].config
    assert (config.text_source, config.text_states, config.text_id) == (source, 16, "")
    guided = SamplingOptions(guidance=2.0, temperature=1.0)
    both = bundle.generate(["a fox", "a cat"], options=guided)
    (alone,) = bundle.generate(["a cat"], options=guided)
    assert torch.equal(both[1], alone)
    assert bundle.backend("autoregressive").likelihood(["a fox"], both[0][None]) > 0
