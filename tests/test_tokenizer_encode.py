"""`python -m tokenizer.encode`: it encodes pictures into stores of codes."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.codes import CodesInfo, open_codes, require_tokenizer
from data.source import open_source
from data.store import Store
from data.store_writer import Part, begin, finish
from tokenizer.augment import move
from tokenizer.encode import EncodeOptions, _encode_share, _moves, codes_with_eos, encode_distributed, main, plan_codes
from tokenizer.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from tokenizer.quantizers import CosineVQConfig
from tokenizer.vit import ViTConfig
from training.cli import command
from training.errors import BadInput
from training.files import locked

CONFIG = ImageTokenizerConfig(
    image_size=16,
    backbone=ViTConfig(patch_size=4, width=16, encoder_depth=1, decoder_depth=1, heads=2, pixel_width=4),
    quantizer=CosineVQConfig(size=100, dim=4),
)

Encode = Callable[..., str]


def codes_of(store: Store[CodesInfo]) -> Tensor:
    return torch.from_numpy(store.array("codes").astype(np.int64))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    ImageTokenizer(CONFIG).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def encode(
    model: Path, photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Encode:
    """Run the command; return the last line of its output."""

    def run(*arguments: str | Path, code: int = 0) -> str:
        argv = ["--model", model, "--data", photos, "--cache", cache, "--device", "cpu", *arguments]
        monkeypatch.setattr(sys, "argv", ["encode", *map(str, argv)])
        try:
            command(main, EncodeOptions)
            left = 0
        except SystemExit as error:
            left = error.code
        said = capsys.readouterr()
        assert left == code, said.err
        return (said.err if code else said.out).splitlines()[-1]

    return run


def test_it_writes_a_store_for_each_split(
    encode: Encode, model: Path, photos: Path, cache: Path, tmp_path: Path
) -> None:
    assert str(tmp_path / "codes" / "validation") in encode("--views", "3", "--out", tmp_path / "codes")
    tokenizer = ImageTokenizer.from_pretrained(model)
    for split, count, views in (("train", 20, 3), ("validation", 4, 1)):
        store = open_codes(tmp_path / "codes" / split)
        require_tokenizer(store, tokenizer.codes_id)
        store.verify()
        pictures = open_source(photos, size=16, split=split, cache=cache)
        assert len(store) == count
        assert (store.info.rows, store.info.columns, store.info.views) == (4, 4, views)
        assert (store.info.codebook_size, store.info.fingerprint) == (100, pictures.fingerprint)
        assert store.array("codes").dtype == np.uint16
        for i in range(count):
            assert (store.key(i), store.captions(i)) == (pictures.key(i), pictures.captions(i))
            assert torch.equal(codes_of(store)[i, 0], tokenizer.encode(pictures[i][None])[0])


def test_views_are_small_shifts_and_zooms(
    encode: Encode, model: Path, photos: Path, cache: Path, tmp_path: Path
) -> None:
    encode("--views", "3", "--seed", "5", "--out", tmp_path / "codes")
    tokenizer = ImageTokenizer.from_pretrained(model)
    pictures = open_source(photos, size=16, split="train", cache=cache)
    images = torch.stack([pictures[i] for i in range(20)])
    codes = codes_of(open_codes(tmp_path / "codes" / "train")).transpose(0, 1)
    expected = [images, *(move(images, *_moves(5, range(20), view)) for view in (1, 2))]
    for view, seen in zip(codes, expected, strict=True):
        assert torch.equal(view, tokenizer.encode(seen))
    assert not torch.equal(codes[1], codes[0])
    assert not torch.equal(codes[2], codes[1])
    scales, offsets = _moves(5, range(20), 1)
    assert len(set(scales.tolist())) == len(set(offsets[:, 0].tolist())) == 20
    assert not torch.equal(_moves(6, range(20), 1)[0], scales)


def test_the_batch_size_does_not_change_codes(encode: Encode, tmp_path: Path) -> None:
    """Views were once sampled by the batch, so that another batch size made others."""
    for size in ("3", "64"):
        encode("--views", "2", "--batch_size", size, "--out", tmp_path / size)
    small, large = (open_codes(tmp_path / size / "train") for size in ("3", "64"))
    assert torch.equal(codes_of(small), codes_of(large))
    assert small.hash == large.hash


def test_the_seed_of_augmentation_identifies_codes() -> None:
    def origin(views: int, seed: int) -> dict[str, Any]:
        return CodesInfo(
            codes_id="a", codebook_size=8, rows=4, columns=4, views=views, seed=seed, source="b", fingerprint="c"
        ).origin

    assert origin(2, 1) != origin(2, 2)
    assert origin(1, 1) == origin(1, 2)


def test_processes_share_the_work_and_the_next_run_encodes_what_is_missing(
    encode: Encode, model: Path, photos: Path, cache: Path, tmp_path: Path
) -> None:
    """Once the first process encoded everything, and a timeout killed the others, which waited at a barrier."""
    encode("--views", "2", "--seed", "5", "--batch_size", "3", "--out", tmp_path / "alone")
    tokenizer = ImageTokenizer.from_pretrained(model)
    options = EncodeOptions(model=model, out=tmp_path / "shared", data=str(photos), views=2, seed=5, cache=cache)
    wanted = plan_codes(tokenizer, options)
    shares = []
    for process in (0, 1):
        state = SimpleNamespace(is_main_process=process == 0, process_index=process, num_processes=2)
        train = wanted[0]
        if process == 0:
            its = train.pictures
            begin(train.folder, train.info, [(its.key(i), its.group(i), its.captions(i)) for i in range(20)])
        _encode_share(train, codes_with_eos(tokenizer), torch.device("cpu"), 3, state)
        with Part(train.folder, train.info) as part:
            shares.append(part.missing().tolist())
        if process == 0:
            with pytest.raises(BadInput, match="9 rows are missing"):
                finish(train.folder, train.info)
    assert shares == [[3, 4, 5, 9, 10, 11, 15, 16, 17], []]
    with Part(train.folder, train.info) as part:
        part.leave_out(7, "as if a process had died")  # the next run tries it again
    calls = []
    encode_distributed(wanted, lambda x, _: calls.append(len(x)) or tokenizer.encode(x), torch.device("cpu"), 3)
    assert calls == [3, 3, 3, 1]  # two views of the batch without the picture, then the validation split
    for split in ("train", "validation"):
        alone, shared = (open_codes(tmp_path / who / split) for who in ("alone", "shared"))
        assert alone.hash == shared.hash


def test_two_commands_do_not_write_the_same_store(encode: Encode, tmp_path: Path) -> None:
    with locked(tmp_path / "codes"):
        assert "another command is at work in this folder" in encode("--out", tmp_path / "codes", code=2)
    encode("--views", "1", "--out", tmp_path / "codes")
    assert {path.name for path in (tmp_path / "codes").iterdir()} == {"train", "validation", "origin.json"}


def test_limit(encode: Encode, tmp_path: Path) -> None:
    encode("--limit", "3", "--views", "1", "--out", tmp_path)
    assert [len(open_codes(tmp_path / split)) for split in ("train", "validation")] == [3, 3]


def test_encoding_again_replaces_the_stores(encode: Encode, tmp_path: Path) -> None:
    encode("--views", "2", "--out", tmp_path)
    encode("--views", "1", "--out", tmp_path)
    assert open_codes(tmp_path / "train").info.views == 1
    assert {path.name for path in tmp_path.iterdir()} == {"train", "validation", "origin.json"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--views", "0"], "EncodeOptions.views is 0: must be 1 or more"),
        (["--batch_size", "0"], "EncodeOptions.batch_size is 0: must be 1 or more"),
        (["--seed", str(2**40)], "EncodeOptions.seed is 1099511627776: must be from 0 to 2147483647"),
        (["--limit", "0"], "limit is 0: must be 1 or more"),
        (["--device", "nonsense"], "device 'nonsense' cannot be used here"),
        (["--model", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--data", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--viewz", "1"], "did you mean 'views'?"),
    ],
)
def test_bad_input_is_one_line(encode: Encode, arguments: list[str], said: str, tmp_path: Path) -> None:
    line = encode("--out", tmp_path / "out", *arguments, code=2)
    assert line.startswith("error: ")
    assert said in line
    assert not (tmp_path / "out").exists()


def test_a_truncated_model_is_one_line(encode: Encode, model: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for file in model.iterdir():
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes()[:200])
    line = encode("--model", tmp_path / "model", "--out", tmp_path / "out", code=2)
    assert str(tmp_path / "model") in line


def test_a_folder_of_pictures_is_not_overwritten(encode: Encode, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "cat.jpg").write_text("dear")
    assert "holds something else than a store of Tessera" in encode("--out", tmp_path, code=2)
    assert (tmp_path / "train" / "cat.jpg").read_text() == "dear"


def test_finished_stores_are_not_encoded_again(encode: Encode, tmp_path: Path) -> None:
    """A run that was killed when only the training split was finished encoded all of that again."""
    encode("--out", tmp_path)
    written = (tmp_path / "train" / "store.json").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "validation")
    assert "4 pictures x 1 views are in" in encode("--out", tmp_path)
    assert (tmp_path / "train" / "store.json").stat().st_mtime_ns == written
    assert len(open_codes(tmp_path / "validation")) == 4
    (tmp_path / "train" / "codes.bin").write_bytes(b"cut")
    encode("--out", tmp_path)
    open_codes(tmp_path / "train").verify()


def test_codes_of_another_source_or_tokenizer_are_not_replaced(
    encode: Encode, model: Path, photos: Path, tmp_path: Path
) -> None:
    """Another `--data` or `--model` replaced the codes in the folder without a word, finished ones or not."""

    def contents() -> dict[str, bytes]:
        return {str(file): file.read_bytes() for file in sorted((tmp_path / "codes").rglob("*")) if file.is_file()}

    out = ["--views", "1", "--out", tmp_path / "codes"]
    others, moved, trained = (tmp_path / name for name in ("others", "moved", "trained"))
    shutil.copytree(photos, others)
    shutil.copytree(model, moved)
    torch.manual_seed(1)
    ImageTokenizer(CONFIG).save_pretrained(trained)
    encode(*out)
    before = contents()
    assert str(photos.parent).encode() not in before[str(tmp_path / "codes" / "origin.json")]
    for _ in range(2):
        line = encode("--data", others, *out, code=2)
        assert f"codes: holds codes of '{photos.name}', which is another source than '{others}'; choose" in line
        line = encode("--model", trained, *out, code=2)
        assert "codes: holds codes of image tokenizer" in line
        assert "which is another one; choose another --out" in line
        assert contents() == before
        encode("--model", moved, "--data", photos / ".." / photos.name, *out)  # the same ones
        before = contents()
    shutil.rmtree(tmp_path / "codes" / "train")
    shutil.rmtree(tmp_path / "codes" / "validation")
    encode("--model", trained, "--data", others, *out)  # nothing is left that it could replace
    # what was encoded is in the same place, but has changed
    encode("--model", moved, "--data", others, "--views", "1", "--out", tmp_path / "changing")
    (others / "1.png").unlink()
    lines = (others / "metadata.jsonl").read_text().splitlines()
    (others / "metadata.jsonl").write_text("\n".join(line for line in lines if '"1.png"' not in line))
    shutil.copytree(trained, moved, dirs_exist_ok=True)
    encode("--model", moved, "--data", others, "--views", "1", "--out", tmp_path / "changing")
    store = open_codes(tmp_path / "changing" / "train")
    assert len(store) == 19
    require_tokenizer(store, ImageTokenizer.from_pretrained(trained).codes_id)


def test_unfinished_codes_of_another_source_are_not_lost(
    encode: Encode, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    out = ["--out", tmp_path / "codes"]
    shutil.copytree(photos, tmp_path / "others")
    with monkeypatch.context() as patch:
        patch.setattr("tokenizer.encode.finish", killed)
        encode(*out, code=130)
    part = tmp_path / "codes" / ".train.part" / "plan.json"
    plan = part.read_bytes()
    assert "which is another source" in encode("--data", tmp_path / "others", *out, code=2)
    assert part.read_bytes() == plan
    encode(*out)


def test_codes_of_an_older_version(encode: Encode, photos: Path, tmp_path: Path) -> None:
    """Nothing says where their pictures and their tokenizer were, but the stores name the tokenizer."""
    torch.manual_seed(1)
    ImageTokenizer(CONFIG).save_pretrained(tmp_path / "other")
    encode("--out", tmp_path / "codes")
    (tmp_path / "codes" / "origin.json").unlink()
    line = encode("--model", tmp_path / "other", "--out", tmp_path / "codes", code=2)
    assert "codes: holds codes of image tokenizer" in line
    encode("--out", tmp_path / "codes")
    (tmp_path / "codes" / "origin.json").write_text('{"mine": 1}')
    assert "origin.json: is there already and does not" in encode("--out", tmp_path / "codes", code=2)
