"""The trainer of the token model: the codes it trains on, and the weights it starts from."""

import dataclasses
import gc
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from tiny_models import IMAGES, text_tokenizer
from torch import nn

import training.task
from data.codes import open_codes
from seq2seq.batches import TokenBatches
from seq2seq.model import TokenModel
from seq2seq.options import TokenTrainingConfig
from seq2seq.train import main
from tokenizer import encode
from tokenizer.image_tokenizer import ImageTokenizer
from tokenizer.text import TextTokenizer
from training.command_line import parse
from training.errors import BadInput
from training.run import RunFolder
from training.trainer import Trainer

PICTURES = dataclasses.replace(IMAGES, image_size=16)


@pytest.fixture(autouse=True)
def _fresh_accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def parts(tmp_path: Path, photos: Path) -> list[str]:
    """The flags that name an image tokenizer, a text tokenizer and a user's pictures."""
    torch.manual_seed(0)
    ImageTokenizer(PICTURES).save_pretrained(tmp_path / "tokenizer")
    text_tokenizer().save_pretrained(tmp_path / "text")
    shutil.copytree(photos, tmp_path / "photos")
    return [
        "--tokenizer", str(tmp_path / "tokenizer"), "--text", str(tmp_path / "text"),
        "--data", str(tmp_path / "photos"), "--cache", str(tmp_path / "cache"),
    ]  # fmt: skip


def fit(out: Path, parts: list[str], *flags: str) -> None:
    """Train a model of a few thousand weights for two steps."""
    short = [
        "--steps", "2", "--checkpoint_every", "2", "--log_every", "1", "--sample_every", "0", "--batch_size", "4",
        "--model.width", "32", "--model.mlp_width", "64", "--model.heads", "2", "--model.encoder_depth", "1",
        "--model.decoder_depth", "1", "--precision", "no",
    ]  # fmt: skip
    try:
        main(parse(TokenTrainingConfig, [*short, *parts, "--out", str(out), *flags]))
    finally:
        gc.collect()
        AcceleratorState._reset_state(reset_partial_state=True)


def test_pictures_are_encoded_once_and_their_codes_are_not_replaced(
    tmp_path: Path, parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was resumed with changed pictures used the codes of the old ones, or of another tokenizer."""
    out = tmp_path / "run"
    fit(out, parts)
    train, validation = (open_codes(out / "codes" / split) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (20, 4)
    assert json.loads((out / "data.json").read_text()) == {
        "train": train.info.origin, "validation": validation.info.origin,
    }  # fmt: skip
    written = (out / "codes/train/store.json").stat().st_mtime_ns
    fit(out, parts, "--steps", "3")
    assert (out / "codes/train/store.json").stat().st_mtime_ns == written

    Image.new("RGB", (24, 24), "red").save(tmp_path / "photos" / "1.png")
    with pytest.raises(BadInput, match=r"run: holds a run on other data \(train.fingerprint: '"):
        fit(out, parts, "--steps", "3")
    assert (out / "codes/train/store.json").stat().st_mtime_ns == written
    shutil.rmtree(out / "checkpoints")
    with pytest.raises(BadInput, match="run: has a model, but checkpoints only up to step 0"):
        fit(out, parts)
    assert (out / "codes/train/store.json").stat().st_mtime_ns == written
    shutil.rmtree(out / "model")
    (out / "log.jsonl").unlink()  # now the run has learnt nothing from them
    fit(out, parts)
    assert open_codes(out / "codes/train").info.fingerprint != train.info.fingerprint


def test_a_run_continues_after_its_pictures_have_moved(tmp_path: Path, parts: list[str]) -> None:
    fit(tmp_path / "run", parts, "--steps", "1")
    for name in ("photos", "tokenizer", "text"):
        (tmp_path / name).rename(tmp_path / f"moved-{name}")
    moved = [part.replace(str(tmp_path), f"{tmp_path}/moved-").replace("moved-/", "moved-") for part in parts]
    fit(tmp_path / "run", [*moved[:-1], str(tmp_path / "cache")], "--steps", "2")
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    shutil.rmtree(tmp_path / "moved-text")
    other = text_tokenizer()
    other.config.max_length += 1
    other.save_pretrained(tmp_path / "moved-text")
    with pytest.raises(BadInput, match=r"model\.text_"):
        fit(tmp_path / "run", [*moved[:-1], str(tmp_path / "cache")], "--steps", "3")


def test_batches_can_be_pickled_for_the_workers_of_a_data_loader(tmp_path: Path, parts: list[str]) -> None:
    fit(tmp_path / "run", parts, "--verify")
    config = parse(TokenTrainingConfig, [*parts, "--out", "unused", "--steps", "1"])
    text = TextTokenizer.from_pretrained(tmp_path / "text")
    codes, validation = (open_codes(tmp_path / "run/codes" / split) for split in ("train", "validation"))
    batches = TokenBatches(codes, validation, text, config)
    first, again = (
        make(np.arange(8), torch.Generator().manual_seed(3)) for make in (batches, pickle.loads(pickle.dumps(batches)))
    )
    assert all(torch.equal(first[name], again[name]) for name in ("text", "tokens", "inputs"))
    assert len(pickle.dumps(codes)) < 2000

    codes = tmp_path / "run/codes/train/codes.bin"
    codes.write_bytes(codes.read_bytes()[:-1] + b"x")
    with pytest.raises(BadInput, match=r"codes/train: .*row 19. was changed or damaged"):
        fit(tmp_path / "run", parts, "--steps", "3", "--verify")


def test_a_run_in_use_keeps_its_codes(tmp_path: Path, parts: list[str]) -> None:
    run = RunFolder(parse(TokenTrainingConfig, [*parts, "--out", str(tmp_path / "run"), "--steps", "1"]))
    run.lock()
    with pytest.raises(BadInput, match="another command is at work"):
        fit(tmp_path / "run", parts)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock", ".tessera"}


def test_a_dry_run_encodes_a_few_pictures_elsewhere(
    tmp_path: Path, parts: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It encoded all of them into the run folder before it showed anything."""
    monkeypatch.setattr(encode, "_SKETCHED", 6)
    fit(tmp_path / "run", parts, "--dry_run")
    printed = capsys.readouterr().out
    assert "# photos-16/train: 20 pictures, of which a dry run encodes 6" in printed
    assert "6 examples, a batch: text (4, 19) torch.int64, tokens (4, 16) torch.int64" in printed
    assert f"codes_id: {ImageTokenizer.from_pretrained(tmp_path / 'tokenizer').codes_id}" in printed
    assert not (tmp_path / "run").exists()
    fit(tmp_path / "run", parts)
    fit(tmp_path / "run", parts, "--dry_run")
    assert "20 examples" in capsys.readouterr().out


def test_unreadable_pictures_are_fatal_when_strict(tmp_path: Path, parts: list[str]) -> None:
    (tmp_path / "photos" / "1.png").write_text("not a picture")
    with pytest.raises(BadInput, match=r"1 unusable picture: 1.png \(not a picture\)"):
        fit(tmp_path / "run", parts, "--strict")
    assert not (tmp_path / "run").exists()


def begun_with(monkeypatch: pytest.MonkeyPatch, out: Path, *flags: str) -> nn.Module:
    """Return the model that training would start with."""
    seen: list[nn.Module] = []

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", lambda trainer: seen.append(trainer.task.modules["model"]))
        fit(out, list(flags))
    return seen[0]


def test_init_loads_the_given_weights(tmp_path: Path, parts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    fit(tmp_path / "first", parts)
    init = tmp_path / "first" / "model"
    given = TokenModel.from_pretrained(init, dtype=torch.float32).state_dict()
    begun = begun_with(
        monkeypatch, tmp_path / "second", *parts, "--init", str(init), "--seed", "1", "--model.dropout", "0.3"
    )
    assert begun.config.dropout == 0.3
    assert all(torch.equal(tensor, given[name]) for name, tensor in begun.state_dict().items())

    with pytest.raises(BadInput, match=r"model: not a model to start from \(mlp_width: 64 there, 96 here\)") as error:
        fit(tmp_path / "fourth", parts, "--init", str(init), "--model.mlp_width", "96")
    assert "\n" not in str(error.value)
    config = json.loads((init / "config.json").read_text())
    (init / "config.json").write_text(json.dumps({**config, "text_id": "other", "codes_id": "another"}))
    with pytest.raises(BadInput, match=r"\(codes_id: 'another' there, '\w+' here, text_id: 'other' there, "):
        fit(tmp_path / "fifth", parts, "--init", str(init))


def test_evaluation_in_parts_equals_evaluation_at_once(
    tmp_path: Path, parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 pictures at once took more memory than training, for pictures with many codes."""
    for name, tokens in (("whole", 2**14), ("parts", 3 * 16)):
        monkeypatch.setattr(training.task, "_PLACES_A_PASS", tokens)
        fit(tmp_path / name, parts, "--sample_every", "2")
    whole, parted = (
        json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[-1]) for name in ("whole", "parts")
    )
    assert parted["validation_loss"] == pytest.approx(whole["validation_loss"], rel=1e-5)
    assert parted["validation_accuracy"] == pytest.approx(whole["validation_accuracy"])
