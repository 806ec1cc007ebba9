"""`python -m data.prepare`: which pictures are copies or unusable, and what it writes of the others."""

import io
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from PIL import Image
from pyarrow import parquet
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from data import picture
from data.captioned import RenderedImages
from data.cleaning import measure as measuring
from data.cleaning.captioner import Captioner, CaptionerOptions, Picture
from data.cleaning.measure import Measures, measure
from data.cleaning.near import NearIndex
from data.cleaning.rules import Rules, usable
from data.cleaning.shards import Row, write_shards
from data.prepare import PrepareOptions, main
from data.source import open_source
from training.cli import command
from training.errors import BadInput

pytest.importorskip("imagehash")


def scene(number: int, width: int = 160, height: int = 120) -> Image.Image:
    """Soft coloured clouds, different for each number."""
    random = np.random.default_rng(number)
    clouds = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return clouds.resize((width, height), Image.Resampling.BICUBIC)


def cropped(image: Image.Image, share: float) -> Image.Image:
    x, y = round(image.width * share), round(image.height * share)
    return image.crop((x, y, image.width - x, image.height - y))


def encoded(image: Image.Image, format: str = "PNG", **save: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **save)
    return file.getvalue()


def photos(folder: Path, pictures: Sequence[tuple[str, Image.Image | bytes, str | None, str]]) -> Path:
    """A folder of pictures: file name, picture, caption and split of each."""
    folder.mkdir()
    lines = []
    for name, image, text, split in pictures:
        (folder / name).write_bytes(image if isinstance(image, bytes) else encoded(image))
        lines.append(json.dumps({"file_name": name, "text": text, "split": split}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def prepared(source: Path | str, out: Path, **options: Any) -> dict[str, dict[str, str]]:
    """Cleans a source; returns what it left out, by key."""
    main(PrepareOptions(source=str(source), out=out, cache=out.parent / "cache", **{"processes": 1, **options}))
    lines = map(json.loads, (out / "left-out.jsonl").read_text().splitlines())
    return {line.pop("key"): line for line in lines}


def opened(out: Path) -> RenderedImages:
    """The pictures as a trainer gets them."""
    (pictures,) = open_source(out, size=32, cache=out.parent / "cache").parts
    return pictures


def kept(out: Path) -> list[str]:
    return [key for file in sorted(out.glob("*.parquet")) for key in parquet.read_table(file)["key"].to_pylist()]


def test_copies_are_found_and_similar_pictures_are_kept(tmp_path: Path) -> None:
    first, turned = scene(1), scene(1).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    other = first.copy()
    other.paste(scene(2, 60, 60), (50, 30))
    blue = Image.merge("RGB", first.split()[::-1])
    source = photos(
        tmp_path / "photos",
        [
            ("first.png", first, "clouds", "train"),
            ("same.bmp", encoded(first, "BMP"), "clouds, as a bitmap", "train"),
            ("jpeg.jpg", encoded(first, "JPEG", quality=50), "clouds, compressed", "train"),
            ("half.png", first.resize((80, 60)), "clouds, small", "train"),
            ("cropped.png", cropped(first, 0.01), "clouds, cropped", "train"),
            ("turned.png", turned, "clouds, turned", "train"),
            ("blue.png", blue, "clouds, in other colours", "train"),
            ("other.png", other, "clouds and something", "train"),
            ("another.png", scene(3), "other clouds", "validation"),
        ],
    )
    left_out = prepared(source, tmp_path / "out", min_side=32)
    assert {key: line["why"] for key, line in left_out.items()} == {
        "same.bmp": "exact copy", "jpeg.jpg": "near copy", "half.png": "near copy", "cropped.png": "near copy"
    }  # fmt: skip
    assert {line["copy_of"] for line in left_out.values()} == {"first.png"}
    assert kept(tmp_path / "out") == ["first.png", "turned.png", "blue.png", "other.png", "another.png"]
    assert prepared(source, tmp_path / "exact", min_side=32, near=None).keys() == {"same.bmp"}


def test_the_largest_copy_is_kept_or_else_the_first(tmp_path: Path) -> None:
    source = photos(
        tmp_path / "photos",
        [
            ("small.png", scene(1, 80, 60), "a", "train"),
            ("large.png", scene(1, 320, 240), "b", "train"),
            ("large-2.png", scene(1, 320, 240), "c", "train"),
            ("larger, but empty.png", scene(1, 640, 480), " ", "train"),
        ],
    )
    assert prepared(source, tmp_path / "out", min_side=32) == {
        "small.png": {"why": "near copy", "detail": "0 bits", "copy_of": "large.png", "its_split": "train"},
        "large-2.png": {"why": "exact copy", "copy_of": "large.png", "its_split": "train"},
        "larger, but empty.png": {"why": "no caption"},
    }


def test_a_held_out_copy_is_kept_whatever_its_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise a model would be evaluated on pictures that it was trained on."""
    source = photos(
        tmp_path / "photos",
        [
            ("a.png", scene(1, 320, 240), "a", "train"),
            ("b.png", scene(1, 80, 60), "b", "test"),
            ("c.png", scene(2), "c", "train"),
            ("d.jpg", encoded(scene(2), "JPEG"), "d", "validation"),
            ("e.png", scene(3), "e", "train"),
        ],
    )
    left_out = prepared(source, tmp_path / "out", min_side=32)
    assert {key: (line["copy_of"], line["its_split"]) for key, line in left_out.items()} == {
        "a.png": ("b.png", "test"), "c.png": ("d.jpg", "validation")
    }  # fmt: skip
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert said == [
        "pictures 5 in photos",
        "kept 3 (test 1, validation 1, train 1)",
        "left out: near copy 2",
        "copies of held-out ones 2 in train",
        "captions 3, from 3",
        f"written to {tmp_path}/out",
    ]


def test_unusable_pictures_are_left_out_with_the_reason(tmp_path: Path) -> None:
    faint = Image.fromarray(np.tile(np.array([[254, 255]], np.uint8).repeat(40, 1), (80, 1)))
    pictures: list[tuple[str, Image.Image | bytes, str | None, str]] = [
        ("good.png", scene(1), "good", "train"),
        ("small.png", scene(2, 100, 63), "small", "train"),
        ("long.png", scene(3, 400, 100), "long", "train"),
        ("blank.png", Image.new("RGB", (80, 80), "white"), "blank", "train"),
        ("faint.png", faint, "faint", "train"),
        ("spoiled.png", b"spoiled", "spoiled", "train"),
        ("null.png", scene(4), None, "train"),
        ("empty.png", scene(5), "  ", "train"),
        ("talk.png", scene(6), "word " * 300, "validation"),
        ("good 2.png", scene(7), "good", "validation"),
    ]
    source = photos(tmp_path / "photos", pictures)
    (source / "unlisted.png").write_bytes(encoded(scene(8)))
    assert prepared(source, tmp_path / "out") == {
        "small.png": {"why": "too small", "detail": "100x63 pixels"},
        "long.png": {"why": "too long or wide", "detail": "400x100 pixels"},
        "blank.png": {"why": "too flat", "detail": "contrast 0"},
        "faint.png": {"why": "too flat", "detail": "contrast 0.5"},
        "spoiled.png": {"why": "unreadable", "detail": "not a picture"},
        "null.png": {"why": "no caption"},
        "empty.png": {"why": "no caption"},
        "talk.png": {"why": "caption too long", "detail": "1,499 characters"},
        "unlisted.png": {"why": "no caption"},
    }
    loose = {"min_side": 63, "max_aspect": 4.0, "min_contrast": 0.1, "max_caption": 1500}
    rest = prepared(source, tmp_path / "loose", **loose)
    assert rest.keys() == {"blank.png", "spoiled.png", "null.png", "empty.png", "unlisted.png"}


def test_equal_captions_are_kept_once() -> None:
    assert usable(["A fox", "a  fox ", "a red fox", " ", "x" * 11], 10) == ("A fox", "a red fox")


def test_the_result_opens_as_a_source_with_its_captions_and_splits(tmp_path: Path) -> None:
    """The picture files are equal to the byte."""
    images = [encoded(scene(i), "JPEG") for i in range(5)]
    texts = [["one", "ONE", "two"], ["three"], ["four", None], [], ["five"]]
    rows = {"image": images, "text": texts, "split": ["train", "test", "style 2", "train", "validation"]}
    parquet.write_table(pa.table(rows), tmp_path / "photos.parquet")
    left_out = prepared(tmp_path / "photos.parquet", tmp_path / "out")
    assert left_out == {"photos.parquet#3": {"why": "no caption"}}
    pictures = opened(tmp_path / "out")
    assert [pictures.corpus.captions(i) for i in range(4)] == [("one", "two"), ("three",), ("four",), ("five",)]
    assert pictures.corpus.splits == ["train", "test", "style 2", "validation"]
    assert [pictures.corpus.file(i) for i in range(4)] == [images[0], images[1], images[2], images[4]]
    assert prepared(tmp_path / "out", tmp_path / "again") == {}
    assert opened(tmp_path / "again").corpus.splits == pictures.corpus.splits


def test_shards_and_row_groups_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.cleaning.shards._GROUP_BYTES", 20)
    monkeypatch.setattr("data.cleaning.shards._SHARD_BYTES", 60)
    write_shards(tmp_path, (Row(str(i), bytes(10), ("a",), "train") for i in range(15)))
    files = [parquet.ParquetFile(file) for file in sorted(tmp_path.iterdir())]
    assert [(file.metadata.num_rows, file.metadata.num_row_groups) for file in files] == [(6, 3), (6, 3), (3, 2)]
    assert kept(tmp_path) == [str(i) for i in range(15)]


def test_the_index_finds_what_comparing_all_pairs_finds() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 256, (300, 16), dtype=np.uint8)
    for i in range(1, 300, 2):  # copies of their neighbours, in which up to 14 bits are others
        flipped = np.zeros(128, np.uint8)
        flipped[random.choice(128, i % 15, replace=False)] = 1
        hashes[i] = hashes[i - 1] ^ np.packbits(flipped)
    colours = np.zeros((300, 8, 8, 3), np.uint8)
    colours[:20] = 100
    for bits in (0, 1, 9, 10, 24):
        index = NearIndex(hashes, colours, bits, shades=5)
        for i in range(300):
            distances = np.bitwise_count(hashes[:i] ^ hashes[i]).sum(1)
            distances[(colours[:i, 0, 0, 0] != colours[i, 0, 0, 0])] = 200
            found = (int(distances.argmin()), int(distances.min())) if i and distances.min() <= bits else None
            assert index.nearest(i) == found
            index.add(i)


class Killed(BaseException):
    pass


def killed_after(count: int) -> Any:
    """`measure`, which raises `Killed` after `count` pictures."""
    seen = iter(range(count))

    def run(file: Path | bytes) -> Measures:
        if next(seen, None) is None:
            raise Killed
        return measure(file)

    return run


def test_a_run_that_was_killed_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured pictures are not read again, even with other rules. The files are the same as without a kill."""
    many = [(f"{i}.png", scene(i % 50), f"number {i}", "train") for i in range(60)]
    source = photos(tmp_path / "photos", many)
    monkeypatch.setattr(measuring, "measure", killed_after(40))
    with pytest.raises(Killed):
        prepared(source, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.parquet"))
    monkeypatch.setattr(measuring, "measure", killed_after(28))  # 32 were written
    left_out = prepared(source, tmp_path / "out")
    monkeypatch.setattr(measuring, "measure", killed_after(0))
    assert len(left_out) == 10
    assert prepared(source, tmp_path / "whole", near=None) == left_out
    monkeypatch.setattr(measuring, "measure", measure)
    (tmp_path / "elsewhere").mkdir()
    prepared(source, tmp_path / "elsewhere" / "out", processes=2)
    assert contents(tmp_path / "out") == contents(tmp_path / "elsewhere" / "out")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def killed(*_: object) -> None:
    raise Killed


def test_a_result_stays_until_a_new_one_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = photos(tmp_path / "photos", [(f"{i}.png", scene(i), "a", "train") for i in range(3)])
    prepared(source, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(BadInput, match="not one picture would be kept"):
        prepared(source, tmp_path / "out", min_side=500)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("data.prepare.put", killed)
        prepared(source, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    (source / "3.png").write_bytes(encoded(scene(3)))
    (source / "3.txt").write_text("not in the table")
    assert prepared(source, tmp_path / "out") == {"3.png": {"why": "no caption"}}
    assert {file.name for file in tmp_path.iterdir()} == {"photos", "out", "cache"}


def test_a_file_that_somebody_added_to_a_result_is_not_lost(tmp_path: Path) -> None:
    """The second run replaced the whole folder, and a file that the user had put there was gone without a word."""
    source = photos(tmp_path / "photos", [(f"{i}.png", scene(i), "a", "train") for i in range(3)])
    prepared(source, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    before = contents(tmp_path / "out")
    with pytest.raises(BadInput, match=r"notes\.txt: would be lost with the old folder; move it, or choose another"):
        prepared(source, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_pictures_of_another_source_are_not_replaced(tmp_path: Path) -> None:
    """`tessera prepare birds --out clean` replaced what had been prepared from other pictures, without a word."""
    foxes = photos(tmp_path / "foxes", [(f"{i}.png", scene(i), "a fox", "train") for i in range(2)])
    birds = photos(tmp_path / "birds", [(f"{i}.png", scene(i), "a bird", "train") for i in range(3, 5)])
    prepared(foxes, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(BadInput, match=r"out: holds pictures prepared from 'foxes', which is another source"):
        prepared(birds, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    assert str(tmp_path).encode() not in before["source.json"]
    (foxes / "1.png").write_bytes(encoded(scene(5)))
    prepared(foxes.parent / "birds" / ".." / "foxes", tmp_path / "out", near=None)
    assert contents(tmp_path / "out") != before
    (tmp_path / "out" / "source.json").unlink()  # of an older version
    prepared(birds, tmp_path / "out")
    assert open_source(tmp_path / "out", size=16, cache=tmp_path / "cache").captions(0) == ("a bird",)


def test_processes_measure_pictures_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_WORTH_A_PROCESS", 1)
    rows = {"image": [encoded(scene(i)) for i in range(70)] + [b"spoiled"], "text": ["a"] * 71}
    parquet.write_table(pa.table(rows), tmp_path / "photos.parquet")
    left_out = prepared(tmp_path / "photos.parquet", tmp_path / "out", processes=2)
    assert left_out == {"photos.parquet#70": {"why": "unreadable", "detail": "not a picture"}}
    assert len(kept(tmp_path / "out")) == 70


def test_one_process_at_a_time_decodes_a_large_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process had a lock of its own."""

    def decode(image: Image.Image, size: int) -> Image.Image:
        (tmp_path / "decoding").touch(exist_ok=False)  # an error makes the picture unreadable
        time.sleep(0.005)
        (tmp_path / "decoding").unlink()
        return image

    monkeypatch.setattr(measuring, "_WORTH_A_PROCESS", 1)
    monkeypatch.setattr(picture, "_LARGE", 1)
    monkeypatch.setattr(picture, "_reduced", decode)
    rows = {"image": [encoded(scene(i, 64, 48)) for i in range(64)], "text": ["a"] * 64}
    parquet.write_table(pa.table(rows), tmp_path / "photos.parquet")
    assert prepared(tmp_path / "photos.parquet", tmp_path / "out", processes=2, min_side=16) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--out", "out"], "error: nowhere: no such file or folder; give"),
        (["photos", "--out", "taken"], "error: taken: holds files that Tessera did not write; choose"),
        (["photos", "--out", "."], "error: .: is replaced as a whole, so the path must end in a name; choose"),
        (["photos", "--out", "photos/clean"], "error: photos/clean: must be outside of the source photos"),
        (["photos", "--out", "out", "--near", "25"], "error: PrepareOptions.near is 25: must be from 0 to 24, or null"),
        (["photos", "--out", "out", "--min_side", "999"], "error: photos: not one picture would be kept (1 too small)"),
        (["photos", "--out", "out", "--recaption", "photos"], "error: photos: not a model of transformers that writes"),
        (["emoji:noto", "--out", "out"], "error: emoji:noto: has no picture files to clean; its pictures are re"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    photos(Path("photos"), [("a.png", scene(1), "a", "train")])
    Path("taken").mkdir()
    Path("taken/diary.txt").write_text("dear diary")
    monkeypatch.setattr(sys, "argv", ["prepare", *arguments, "--cache", "cache", "--processes", "1"])
    with pytest.raises(SystemExit) as exit_:
        command(main, PrepareOptions)
    assert exit_.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(message)
    assert contents(Path("taken")) == {"diary.txt": b"dear diary"}


def test_without_imagehash_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagehash", None)
    source = photos(tmp_path / "photos", [("a.png", scene(1), "a", "train")])
    with pytest.raises(BadInput, match=r"package imagehash is not installed: run pip install -e \"\.\[prepare\]\""):
        prepared(source, tmp_path / "out")


def image_processor(name: str, **options: Any) -> Any:
    """One that needs no torchvision. Its name depends on the version of `transformers`."""
    kind = getattr(transformers, f"{name}ImageProcessorPil", None) or getattr(transformers, f"{name}ImageProcessor")
    return kind(**options)


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights that writes captions."""
    folder = tmp_path_factory.mktemp("blip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *["a", "red", "fox", "picture", "of", "the", "blue"]]
    tiny = {
        "hidden_size": 16, "intermediate_size": 16, "projection_dim": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }  # fmt: skip
    special = {"bos_token_id": 2, "pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3}
    text = {**tiny, **special, "vocab_size": len(words), "encoder_hidden_size": 16, "max_position_embeddings": 40}
    torch.manual_seed(0)
    config = BlipConfig(text_config=text, vision_config={**tiny, "image_size": 16, "patch_size": 8}, projection_dim=8)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    BlipProcessor(image_processor("Blip", size={"height": 16, "width": 16}), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def llava(tmp_path: Path) -> Path:
    """A tiny chat model with random weights that writes captions."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<image>", "what", "is", "there", "a", "fox"]
    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**tiny, image_size=16, patch_size=8),
        text_config=LlamaConfig(**tiny, **special, vocab_size=len(words)),
        image_token_index=words.index("<image>"), vision_feature_layer=-1,
    )  # fmt: skip
    LlavaForConditionalGeneration(config).save_pretrained(tmp_path / "llava")
    vocab = {word: i for i, word in enumerate(words)}
    LlavaProcessor(
        image_processor("CLIP", size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        BertTokenizer(vocab=vocab, extra_special_tokens={"image_token": "<image>"}),
        patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template="{% for part in messages[0]['content'] %}{{ part.get('text', '<image>') }} {% endfor %}[SEP]",
    ).save_pretrained(tmp_path / "llava")  # fmt: skip
    return tmp_path / "llava"


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Path]:
    """A folder of five pictures, of which only one has a caption."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for i in range(5):
        (folder / f"{i}.png").write_bytes(encoded(scene(i)))
    (folder / "0.txt").write_text("a storm")
    return folder


def test_a_model_writes_captions(blip: Path, bare: Path, tmp_path: Path) -> None:
    told: dict[str, Any] = {"recaption": str(blip), "recaption_prompt": "a picture of", "recaption_tokens": 5}
    assert prepared(bare, tmp_path / "out", recaption_batch=2, **told) == {}
    pictures = opened(tmp_path / "out")
    written = [pictures.corpus.captions(i)[-1] for i in range(5)]
    assert pictures.corpus.captions(0) == ("a storm", written[0])
    assert all(text.startswith("a picture of ") for text in written)
    prepared(bare, tmp_path / "replaced", keep_captions=False, recaption_batch=2, **told)
    assert [opened(tmp_path / "replaced").corpus.captions(i) for i in range(5)] == [(text,) for text in written]
    assert list(prepared(bare, tmp_path / "without")) == ["1.png", "2.png", "3.png", "4.png"]


def test_the_answer_of_a_chat_model_is_the_caption(llava: Path, tmp_path: Path) -> None:
    options = CaptionerOptions(recaption_prompt="what is there", recaption_tokens=6, device="cpu")
    model = Captioner(str(llava), options, tmp_path / "cache")
    pictures = [np.asarray(scene(i)).transpose(2, 0, 1) for i in range(3)]
    written = model(pictures)
    assert len(written) == 3 and any(written)
    assert not any("there" in text and text.startswith("what is") for text in written)
    assert model._prompt == "<image> what is there [SEP]"
    assert model(pictures) == written


def test_captions_of_a_run_that_was_killed_are_kept(
    blip: Path, bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Captioner.__call__
    left = iter(range(2))

    def killed(self: Captioner, pictures: Sequence[Picture]) -> list[str]:
        if next(left, None) is None:
            raise Killed
        return written(self, pictures)

    monkeypatch.setattr(Captioner, "__call__", killed)
    told: dict[str, Any] = {"recaption": str(blip), "recaption_tokens": 5, "recaption_batch": 2}
    with pytest.raises(Killed):
        prepared(bare, tmp_path / "out", **told)
    (journal,) = (tmp_path / "cache" / "prepare").glob("captions-*")
    assert len(journal.read_text().splitlines()) == 2
    with journal.open("a") as file:
        file.write('["a fo')  # cut short
    left = iter(range(1))
    prepared(bare, tmp_path / "out", **told)
    monkeypatch.undo()
    (tmp_path / "elsewhere").mkdir()
    prepared(bare, tmp_path / "elsewhere" / "out", **told)
    assert contents(tmp_path / "out") == contents(tmp_path / "elsewhere" / "out")


def test_weights_that_could_run_code_are_not_read(blip: Path, bare: Path, tmp_path: Path) -> None:
    model = tmp_path / "pickled"
    model.mkdir()
    for file in blip.iterdir():
        if file.suffix != ".safetensors":
            (model / file.name).write_bytes(file.read_bytes())
    torch.save({}, model / "pytorch_model.bin")
    with pytest.raises(BadInput, match="not a model of transformers that writes captions") as caught:
        prepared(bare, tmp_path / "out", recaption=str(model))
    assert "\n" not in str(caught.value)


def test_rules_out_of_range_are_refused() -> None:
    for wrong in ({"min_side": 0}, {"max_aspect": 0.5}, {"min_contrast": -1.0}, {"max_caption": 0}, {"near": -1}):
        with pytest.raises(BadInput, match=f"Rules.{next(iter(wrong))} is"):
            Rules(**wrong)  # type: ignore[arg-type]
