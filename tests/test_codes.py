"""The store of image codes."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import torch
from accelerate.state import AcceleratorState
from tiny_models import IMAGES, text_tokenizer

from data.codes import CodedPicture, CodeStore, CodeStoreInfo, write_codes
from seq2seq.options import TokenTrainingConfig
from seq2seq.train import main
from tokenizer.image_tokenizer import ImageTokenizer
from training.cli import command
from training.errors import BadInput

INFO = CodeStoreInfo(
    codes_id="0123456789abcdef", codebook_size=512, rows=4, columns=3, views=2, source="photos", fingerprint="f00d"
)


def pictures(info: CodeStoreInfo = INFO, count: int = 20) -> list[CodedPicture]:
    generator = torch.Generator().manual_seed(0)
    shape = (info.views, info.rows, info.columns)
    return [
        CodedPicture(
            key=f"{i}.png",
            group=f"{i // 2}",
            captions=tuple(f"caption {j} of 🦊 {i}" for j in range(1 + i % 3)),
            codes=torch.randint(0, info.codebook_size, shape, generator=generator),
        )
        for i in range(count)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_codes(tmp_path / "train", INFO, pictures())
    return tmp_path / "train"


def refusal(folder: Path) -> str:
    with pytest.raises(BadInput) as error:
        CodeStore(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_round_trip(folder: Path) -> None:
    store = CodeStore(str(folder))
    assert store.info == INFO
    assert len(store) == 20
    for i, expected in enumerate(pictures()):
        picture = store[i]
        assert (picture.key, picture.group) == (expected.key, expected.group)
        assert picture.captions == expected.captions
        assert picture.codes.dtype == torch.int64
        assert torch.equal(picture.codes, expected.codes)


@pytest.mark.parametrize(("codebook_size", "dtype"), [(512, "uint16"), (2**16, "uint16"), (2**16 + 1, "uint32")])
def test_codes_take_no_more_room_than_they_need(tmp_path: Path, codebook_size: int, dtype: str) -> None:
    info = dataclasses.replace(INFO, codebook_size=codebook_size, views=1)
    codes = torch.full((1, 4, 3), codebook_size - 1)
    write_codes(tmp_path / "store", info, [CodedPicture(key="a", group="a", captions=("b",), codes=codes)])
    table = datasets.load_from_disk(str(tmp_path / "store" / "codes"))
    assert table.features["codes"].feature.dtype == dtype
    assert torch.equal(CodeStore(tmp_path / "store")[0].codes, codes)


def test_the_tokenizer_must_be_the_one_that_made_them(folder: Path) -> None:
    store = CodeStore(folder)
    store.require_tokenizer(INFO.codes_id)
    with pytest.raises(BadInput) as error:
        store.require_tokenizer("fedcba9876543210")
    assert INFO.codes_id in str(error.value)
    assert "fedcba9876543210" in str(error.value)


def test_writing_that_fails_leaves_the_old_store(folder: Path) -> None:
    def broken() -> object:
        yield from pictures()[:3]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_codes(folder, INFO, broken())
    assert len(CodeStore(folder)) == 20
    assert [path.name for path in folder.parent.iterdir()] == ["train"]


def test_a_store_takes_the_place_of_an_older_one(folder: Path) -> None:
    write_codes(folder, dataclasses.replace(INFO, views=1), pictures(dataclasses.replace(INFO, views=1), 3))
    assert len(CodeStore(folder)) == 3
    assert [path.name for path in folder.parent.iterdir()] == ["train"]


def test_nothing_else_is_replaced(tmp_path: Path) -> None:
    """`tokenizer.encode --data photos --out photos` replaced the pictures in photos/train with their codes."""
    photos = tmp_path / "train"
    photos.mkdir()
    write_codes(photos, INFO, pictures())  # an empty folder is fine
    (tmp_path / "validation").mkdir()
    (tmp_path / "validation" / "cat.jpg").write_text("dear")
    (tmp_path / "file").write_text("dear")
    write_codes(tmp_path / "published", INFO, pictures())
    (tmp_path / "published" / "LICENSE").write_text("dear")
    for taken in ("validation", "file", "published"):
        with pytest.raises(BadInput, match="holds something else than a code store; choose another --out"):
            write_codes(tmp_path / taken, INFO, pictures())
    assert (tmp_path / "validation" / "cat.jpg").read_text() == "dear"
    assert (tmp_path / "file").read_text() == "dear"


def test_no_store(tmp_path: Path) -> None:
    said = f"not a code store; write one with `python -m tokenizer.encode --out {tmp_path}`"
    assert refusal(tmp_path / "train") == f"{tmp_path / 'train'}: {said}"


def cut(name: str, keep: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (file,) = folder.rglob(name)
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * keep)])

    return damage


def edited(**values: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / "store.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        cut("*.arrow", 0),
        cut("*.arrow", 0.1),
        cut("*.arrow", 0.6),
        lambda folder: next(folder.rglob("*.arrow")).unlink(),
        cut("state.json", 0),
        cut("state.json", 0.5),
        lambda folder: (folder / "codes" / "state.json").write_text("{}"),
        lambda folder: (folder / "codes" / "state.json").unlink(),
        cut("dataset_info.json", 0.5),
        cut("store.json", 0),
        cut("store.json", 0.5),
        edited(rows=5),
        edited(codebook_size=2**20),
        edited(rows="four"),
        edited(colour="red"),
    ],
)
def test_a_damaged_store(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder)
    refusal(folder)


def test_a_folder_of_other_codes(folder: Path) -> None:
    edited(views=1)(folder)
    assert "damaged code store" in refusal(folder)


def image_tokenizer() -> ImageTokenizer:
    torch.manual_seed(0)
    return ImageTokenizer(IMAGES)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: None, f"codes/train: the codes were made by image tokenizer {INFO.codes_id}, but this one is"),
        (
            edited(codes_id=image_tokenizer().codes_id),
            f"codes/validation: the codes were made by image tokenizer {INFO.codes_id}, but",
        ),
        (cut("*.arrow", 0.5), "damaged"),
    ],
    ids=["another tokenizer's", "another's for validation", "damaged"],
)
def test_the_trainer_refuses_a_store_in_one_line(
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
        write_codes(tmp_path / "codes" / split, INFO, pictures())
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
