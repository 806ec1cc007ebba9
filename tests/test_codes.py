"""Stores of image codes, and which stores the trainer of the token model refuses."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from tiny_models import IMAGES, text_tokenizer

from data.codes import CodesInfo, open_codes, require_tokenizer
from data.store_writer import Part, begin, finish
from seq2seq import codes
from seq2seq.options import TokenTrainingConfig
from seq2seq.train import main
from tokenizer.image_tokenizer import ImageTokenizer
from training.cli import command
from training.errors import BadInput
from training.run import RunFolder

INFO = CodesInfo(
    codes_id="0123456789abcdef", codebook_size=512, rows=4, columns=3, views=2, seed=0, source="photos",
    fingerprint="f00d",
)  # fmt: skip


def write_codes(folder: Path, info: CodesInfo = INFO, count: int = 20) -> None:
    begin(folder, info, [(f"{i}.png", f"{i}", [f"caption {i}"]) for i in range(count)])
    with Part(folder, info) as part:
        part.write(0, codes=np.full((count, info.views, info.rows, info.columns), info.codebook_size - 1))
    finish(folder, info)


@pytest.mark.parametrize(("codebook_size", "dtype"), [(512, "uint16"), (2**16 - 1, "uint16"), (2**16, "uint32")])
def test_codes_use_the_smallest_dtype(tmp_path: Path, codebook_size: int, dtype: str) -> None:
    write_codes(tmp_path / "store", dataclasses.replace(INFO, codebook_size=codebook_size))
    codes = open_codes(tmp_path / "store").array("codes")
    assert codes.dtype == dtype
    assert (codes == codebook_size - 1).all()


def test_eos_fits_beside_the_codes(tmp_path: Path) -> None:
    """It fills the rows below a picture that ends early."""
    for size in (2**16 - 1, 2**16):
        assert np.iinfo(dataclasses.replace(INFO, codebook_size=size).arrays["codes"].dtype).max >= size


def test_codes_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    write_codes(tmp_path / "store")
    store = open_codes(tmp_path / "store")
    require_tokenizer(store, INFO.codes_id)
    with pytest.raises(BadInput, match=f"{INFO.codes_id}, but this one is fedcba9876543210"):
        require_tokenizer(store, "fedcba9876543210")


def test_a_missing_store_gives_the_command_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"write some with `python -m tokenizer.encode --out {tmp_path}`"):
        open_codes(tmp_path / "train")


def rewritten(**values: object) -> Callable[[Path], None]:
    return lambda folder: write_codes(folder, dataclasses.replace(INFO, **values))


def cut(folder: Path) -> None:
    (folder / "codes.bin").write_bytes(b"")


def image_tokenizer() -> ImageTokenizer:
    torch.manual_seed(0)
    return ImageTokenizer(IMAGES)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: None, f"codes/train: the codes were made by image tokenizer {INFO.codes_id}, but this one is"),
        (
            rewritten(codes_id=image_tokenizer().codes_id),
            f"codes/validation: the codes were made by image tokenizer {INFO.codes_id}, but",
        ),
        (cut, "damaged"),
    ],
    ids=["another tokenizer's", "another's for validation", "damaged"],
)
def test_the_trainer_refuses_a_bad_store_in_one_line(
    damage: Callable[[Path], None],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    image_tokenizer().save_pretrained(tmp_path / "tokenizer")
    text_tokenizer().save_pretrained(tmp_path / "text")
    for split in ("train", "validation"):
        write_codes(tmp_path / "codes" / split)
    damage(tmp_path / "codes" / "train")
    argv = ["--data", "codes", "--tokenizer", "tokenizer", "--text", "text", "--out", "run", "--steps", "1"]
    monkeypatch.setattr(sys, "argv", ["train.py", *argv])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        command(main, TokenTrainingConfig)
    assert left.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    assert said in line
    assert not (tmp_path / "run").exists()
    AcceleratorState._reset_state(reset_partial_state=True)


def test_the_trainer_encodes_as_many_views_as_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(codes, "plan_codes", lambda tokenizer, options: seen.append(options.views))
    monkeypatch.setattr(codes, "encode_for_run", lambda *_: None)
    config = TokenTrainingConfig(data="photos", steps=1, views=3, out=str(tmp_path / "run"))
    codes.code_folders(config, RunFolder(config), image_tokenizer())
    assert seen == [3]
