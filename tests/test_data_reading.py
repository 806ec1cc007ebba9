"""Training and all other commands read pictures, captions and prompts by the same code."""

import gzip
import hashlib
import io
import json
import os
import pickle
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile
from pyarrow import parquet

from data import parquet as tables
from data import picture as reader
from data.files import content_hashes, text_lines, visible_files
from data.picture import fit, fit_mask, original_size, whole
from data.source import identity, open_source
from data.store import Unreadable
from evaluation.harness import JudgeOptions, open_setup
from evaluation.pictures import Folder, list_pictures, list_prompted, read_pictures
from evaluation.suites import open_suite
from training.errors import BadInput
from training.strict_json import read_json_lines

RAMP = np.linspace(0, 255, 32).round().astype(np.uint8)[None].repeat(32, 0)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format=format, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "samples",
    [RAMP.astype(np.uint16) * 257, RAMP.astype(np.int32) * 257, RAMP.astype(np.float32) / 255, RAMP.astype(np.float32)],
    ids=["16 bits", "32 bits", "floats to 1", "floats to 255"],
)
def test_grey_of_any_depth_is_the_same_grey(samples: NDArray[np.generic], tmp_path: Path) -> None:
    """The scorer had its own reader, which turned 16-bit grey into white."""
    for name, image in (("a.tif", Image.fromarray(samples)), ("b.tif", Image.fromarray(RAMP))):
        image.save(tmp_path / name)
    assert np.abs(whole(tmp_path / "a.tif").astype(int) - RAMP).max() <= 1
    trained, judged = fit(tmp_path / "a.tif", 32), read_pictures(list_pictures(tmp_path))
    assert (torch.from_numpy(trained.copy()) == judged[0]).all()
    assert (judged[0].int() - judged[1].int()).abs().max() <= 1
    assert (Folder(tmp_path, 32)[0] == judged[0]).all()


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        (np.float32([[0, np.nan]]), "samples that are no numbers"),
        (np.float32([[-5, 3]]), "samples from -5 to 3; must be from 0 to 255"),
        (np.int32([[0, 70_000]]), "samples from 0 to 70000; must be from 0 to 65535"),
    ],
)
def test_samples_out_of_range_are_refused(samples: NDArray[np.generic], why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        whole(encoded(Image.fromarray(samples.repeat(20, 0).repeat(20, 1)), "TIFF"))


def test_a_colour_that_is_transparent_is_white_at_any_depth() -> None:
    grey = encoded(Image.fromarray(RAMP.astype(np.uint16) * 257), transparency=257 * int(RAMP[0, 3]))
    assert (whole(grey)[:, :, 3] == 255).all()
    assert np.abs(whole(grey)[:, :, 4].astype(int) - RAMP[0, 4]).max() <= 1
    red = encoded(Image.new("RGB", (16, 16), (255, 0, 0)), transparency=(255, 0, 0))
    assert (whole(red) == 255).all()


@pytest.mark.parametrize("white", [1, 255])
@pytest.mark.parametrize("mode", ["L", "RGB", "1", "I;16"])
def test_a_mask_of_ones_is_a_mask(mode: str, white: int) -> None:
    """Segmentation programs write 0 and 1, which look black: nothing was drawn in the mask."""
    mask = np.zeros((32, 32), np.uint8)
    mask[:, 16:] = white
    image = (
        Image.fromarray(mask.astype(np.uint16))
        if mode == "I;16"
        else Image.fromarray(mask > 0 if mode == "1" else mask)
    )
    found = fit_mask(encoded(image.convert(mode) if mode == "RGB" else image), 32)
    if mode == "I;16" and white == 255:  # of 65,535
        assert not found.any()
    else:
        assert (found == (mask > 0)).all()


@pytest.mark.parametrize("format", ["EPS", "PDF", "PPM", "ICO"])
def test_other_formats_are_refused_whatever_their_suffix(tmp_path: Path, format: str) -> None:
    """Pillow gives PostScript to Ghostscript, an interpreter, whatever the file's name."""
    (tmp_path / "cat.png").write_bytes(encoded(Image.new("RGB", (64, 64)), format))
    for read in (whole, lambda file: fit(file, 16), original_size):
        with pytest.raises(Unreadable, match="not a picture"):
            read(tmp_path / "cat.png")
    with pytest.raises(BadInput, match=r"cat.png: cannot be read \(not a picture\)"):
        read_pictures([tmp_path / "cat.png"])


def test_what_is_too_large_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_LARGEST", 100 * 100)
    file = encoded(Image.new("RGB", (101, 100)))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    with pytest.raises(Unreadable, match=r"0 million pixels; must have at most 0 million"):
        fit(file, 16)


def test_a_large_jpeg_is_reduced_while_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan of 182 million pixels was refused."""
    photo = Image.fromarray(RAMP).convert("RGB").resize((512, 512))
    full = fit(encoded(photo, "JPEG", quality=95), 32)
    monkeypatch.setattr(reader, "_LARGEST", 100 * 100)
    assert np.abs(fit(encoded(photo, "JPEG", quality=95), 32).astype(int) - full).max() == 0
    assert np.abs(full[0].astype(int) - RAMP).max() < 8


def test_a_large_picture_is_reduced_before_it_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = encoded(Image.fromarray(RAMP).convert("RGBA").resize((512, 512)))
    small = fit(photo, 32)
    monkeypatch.setattr(reader, "_LARGE", 1)
    assert np.abs(fit(photo, 32).astype(int) - small).max() <= 3


def broken_exif(entries: bytes) -> bytes:
    return b"Exif\0\0II*\0\x08\0\0\0" + entries


TURNED = b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"


@pytest.mark.parametrize(
    ("exif", "upright"),
    [
        (broken_exif(b"\x01\0" + TURNED + b"\0\0\0\0"), False),
        (broken_exif(b"\x02\0" + TURNED + b"\x0f\x01\x02\0\x90\x01\0\0\x0f\x27\0\0" + b"\0\0\0\0"), False),
        (broken_exif(b"\x01\0" + b"\x12\x01\x02\0\x04\0\0\0\x36\0\0\0" + b"\0\0\0\0"), True),
        (b"Exif\0\0MM\0*\xff\xff\xff\xff\xff\xff\xff", True),
        (b"Exif\0\0", True),
    ],
    ids=["whole", "another tag cut short", "orientation as text", "garbage", "empty"],
)
def test_a_damaged_tag_costs_no_picture(exif: bytes, upright: bool) -> None:
    """Only the orientation is read. Photographs with another damaged tag were left out, or ended the command."""
    file = encoded(Image.new("RGB", (96, 64), "teal"), "JPEG", exif=exif)
    assert original_size(file) == ((96, 64) if upright else (64, 96))
    assert whole(file).shape == ((3, 64, 96) if upright else (3, 96, 64))
    assert fit(file, 16).shape == (3, 16, 16)


def picture(file: Path, colour: str = "teal") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), colour).save(file)
    return file


def test_hidden_files_are_passed_over_and_links_followed_once(tmp_path: Path) -> None:
    """Hidden files of macOS and notebooks were counted as pictures, or made the folder unusable."""
    picture(tmp_path / "elsewhere" / "linked.png")
    folder = tmp_path / "photos"
    for name in (
        "b.png",
        "a.png",
        "deep/c.png",
        ".ipynb_checkpoints/a.png",
        "__MACOSX/a.png",
        "._a.png",
        ".DS_Store/x.png",
    ):
        picture(folder / name)
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "link again").symlink_to(tmp_path / "elsewhere")
    (folder / "deep" / "cycle").symlink_to(folder)
    found = [str(file.relative_to(folder)) for file in visible_files(folder)]
    assert found == ["a.png", "b.png", "deep/c.png", "link/linked.png"]
    assert len(Folder(folder, 16)) == 4


def test_a_linked_split_is_there(tmp_path: Path) -> None:
    for split, place in (("train", tmp_path / "disk"), ("validation", tmp_path / "photos" / "validation")):
        picture(place / f"{split}.png")
        (place / "metadata.jsonl").write_text(json.dumps({"file_name": f"{split}.png", "text": split}))
    (tmp_path / "photos" / "train").symlink_to(tmp_path / "disk")
    pictures = open_source(tmp_path / "photos", size=16, cache=tmp_path / "cache", split="train")
    assert [pictures.key(i) for i in range(len(pictures))] == ["train/train.png"]


def photos(folder: Path, count: int, **more: object) -> Path:
    lines = [{"file_name": picture(folder / f"{i}.png").name, "text": f"number {i}", **more} for i in range(count)]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_training_pictures_are_used_if_no_validation_split_exists(tmp_path: Path) -> None:
    """Most folders have `train/` and `test/`. A trainer then had nothing to validate with, and no option to fix it."""
    for split in ("train", "test"):
        photos(tmp_path / "p" / split, 6)

    def splits(split: str) -> int:
        return len(open_source(tmp_path / "p", size=16, cache=tmp_path / "cache", split=split))

    with pytest.warns(UserWarning, match="p: has no split 'validation', so 1 of the training pictures are used"):
        assert splits("validation") == 1
    assert (splits("train"), splits("test")) == (5, 6)
    photos(tmp_path / "one", 1)
    with pytest.raises(BadInput, match="one: has one picture; must have two or more"):
        open_source(tmp_path / "one", size=16, cache=tmp_path / "cache", split="validation")


def test_joined_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Pictures with equal names in `cats/train` and `dogs/train` were one group, so each was seen half as often."""
    for kind in ("cats", "dogs"):
        photos(tmp_path / kind / "train", 6)
    source = f"{tmp_path}/cats/train+{tmp_path}/dogs/train"
    pictures = open_source(source, size=16, cache=tmp_path / "cache", split="train")
    assert len({pictures.key(i) for i in range(10)}) == len({pictures.group(i) for i in range(10)}) == len(pictures)
    assert (pictures.key(0).split("/")[0], pictures.key(5).split("/")[0]) == ("train", "train (2)")


def test_null_is_not_a_split(tmp_path: Path) -> None:
    photos(tmp_path / "p", 3, split=None)
    assert len(open_source(tmp_path / "p", size=16, cache=tmp_path / "cache", split="train")) == 2


def test_every_command_reads_tables_at_any_depth(tmp_path: Path) -> None:
    """Inspection read a data set in the Hub's layout, but scoring found no picture in it."""
    (tmp_path / "hub" / "data").mkdir(parents=True)
    (tmp_path / "hub" / "data" / "._train-00000-of-00001.parquet").write_text("of a Mac")
    rows = {"image": [picture(tmp_path / f"{i}.png").read_bytes() for i in range(3)], "text": ["a", "b", "c"]}
    parquet.write_table(pa.table(rows), tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    side = open_setup(
        None, 16, JudgeOptions(reference=str(tmp_path / "hub"), cache=tmp_path / "cache", networks=["lite0"])
    )
    assert len(side.judge.reference) == 3


MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("mark", [b"", MARK])
def test_texts_are_read_with_any_mark_and_line_ends(tmp_path: Path, mark: bytes, ends: bytes) -> None:
    """The byte order mark of Windows editors became part of the first prompt, which changed its picture."""
    file = tmp_path / "prompts.txt"
    file.write_bytes(mark + ends.join([b"a fox", b"", "a\u2028rocket".encode(), b""]))
    assert text_lines(file) == ["a fox", "", "a\u2028rocket"]
    assert [prompt.text for prompt in open_suite(str(file)).prompts] == ["a fox", "a\u2028rocket"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.csv", "Prompts,Category\na cat\na cat, asleep,Animals\n", "row 2: has more values than columns"),
        ("p.tsv", "Prompt\tCategory\na cat\tAnimals\tBasic\n", "row 1: has more values than columns"),
        ("p.txt", "animals\ta dog\na cat\t\n", "line 2: no prompt after the tab"),
    ],
)
def test_a_prompt_that_would_be_cut_is_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    """A prompt with an unquoted comma was cut there, and one before a tab became a category with an empty prompt."""
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=f"{name}, {said}"):
        open_suite(str(tmp_path / name))


@pytest.mark.parametrize("mark", [b"", MARK])
def test_lines_of_json_end_at_line_feeds(tmp_path: Path, mark: bytes) -> None:
    """Other Unicode line ends may occur inside a JSON string. They cut it in two."""
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(mark + '{"prompt": "a\u2028fox"}\r\n\r\n{"prompt": "b"}'.encode())
    assert [where for where, _ in read_json_lines(file)] == [f"{file}, line 1", f"{file}, line 3"]
    assert [prompt.text for prompt in open_suite(str(file)).prompts] == ["a\u2028fox", "b"]
    photos(tmp_path / "p", 2)
    metadata = tmp_path / "p" / "metadata.jsonl"
    metadata.write_bytes(mark + metadata.read_bytes().replace(b"number 0", "num\u2028ber".encode()))
    assert list_prompted(tmp_path / "p") == (
        [tmp_path / "p" / "0.png", tmp_path / "p" / "1.png"],
        ["num\u2028ber", "number 1"],
    )
    metadata.write_bytes(b'{"file_name": "0.png", "text": "a"}\n\xff')
    with pytest.raises(BadInput, match=r"metadata.jsonl, line 2: not valid JSON \(not UTF-8 text, byte 0\)"):
        open_source(tmp_path / "p", size=16, cache=tmp_path / "cache")


def test_prompt_files_cannot_name_files_outside(tmp_path: Path) -> None:
    picture(tmp_path / "secret.png")
    (tmp_path / "drawn").mkdir()
    file = tmp_path / "drawn" / "generation.json"
    for name, why in (("../secret.png", "inside the folder"), (str(tmp_path / "secret.png"), "inside the folder")):
        file.write_text(json.dumps({"images": [{"file": name, "prompt": "x"}]}))
        with pytest.raises(BadInput, match=why):
            list_prompted(tmp_path / "drawn")
    for images in ([{"file": 3, "prompt": "x"}], {"file": "x"}, ["x"], None):
        file.write_text(json.dumps({"images": images}))
        with pytest.raises(BadInput, match=r"generation.json: must give the file and the prompt of each picture"):
            list_prompted(tmp_path / "drawn")


def in_a_folder(tmp_path: Path, colour: str) -> Path:
    picture(photos(tmp_path / "p", 2) / "0.png", colour)
    return tmp_path / "p"


def in_a_table(tmp_path: Path, colour: str) -> Path:
    rows = {"image": [picture(tmp_path / "x.png", colour).read_bytes()], "text": ["a"]}
    parquet.write_table(pa.table(rows), tmp_path / "p.parquet")
    return tmp_path / "p.parquet"


@pytest.mark.parametrize("made", [in_a_folder, in_a_table])
def test_another_picture_under_the_same_name_and_time_is_seen(
    tmp_path: Path, made: Callable[[Path, str], Path]
) -> None:
    """A new picture of the same size and time was taken from the cache, under the old fingerprint."""

    def opened(colour: str) -> tuple[list[int], str]:
        source = made(tmp_path, colour)
        for file in (source, *(source.rglob("*") if source.is_dir() else ())):
            os.utime(file, (1e9, 1e9))
        pictures = open_source(source, size=16, cache=tmp_path / "cache")
        return pictures[0][:, 0, 0].tolist(), pictures.fingerprint

    red, blue = opened("#ff0000"), opened("#0000ff")
    assert red[0] == [255, 0, 0]
    assert blue[0] == [0, 0, 255]
    assert red[1] != blue[1]


def test_content_hashes_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy elsewhere has the same hash, so moved data are the same data."""
    file = picture(tmp_path / "a.png")
    (first,) = content_hashes([file], tmp_path / "cache")
    moved = tmp_path / "b.png"
    moved.write_bytes(file.read_bytes())
    assert content_hashes([moved, tmp_path / "none"], tmp_path / "cache") == [first, ""]
    monkeypatch.setattr(Path, "open", lambda *_, **__: pytest.fail("read again"))
    assert content_hashes([file], tmp_path / "cache") == [first]


def test_the_cache_is_free_while_files_are_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was locked from the first to the last file, so with two processes the other one gave up after a minute:
    `database is locked`."""
    picture(tmp_path / "p" / "a.png")
    picture(tmp_path / "p" / "b.png")
    digest = hashlib.file_digest

    def hashed(*arguments: Any) -> Any:
        with closing(sqlite3.connect(tmp_path / "cache" / "contents.sqlite", timeout=0)) as other, other:
            other.execute("INSERT OR REPLACE INTO contents VALUES ('another file', 'x')")
        return digest(*arguments)

    monkeypatch.setattr(hashlib, "file_digest", hashed)
    files = list(visible_files(tmp_path / "p"))
    hashes = content_hashes(files, tmp_path / "cache")
    monkeypatch.undo()
    assert hashes == content_hashes(files, tmp_path / "cache")


def captions(source: Path, tmp_path: Path) -> dict[str, tuple[str, ...]]:
    pictures = open_source(source, size=16, cache=tmp_path / "cache")
    return {pictures.key(i): pictures.captions(i) for i in range(len(pictures))}


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "txt"])
def test_captions_are_found_in_all_their_places(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "p"
    rows = [
        {"file_name": picture(folder / name).name, "text": f"a {name}, red", "split": None}
        for name in ("a.png", "b.jpg")
    ]
    match kind:
        case "jsonl":
            (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
        case "csv":  # as Excel saves it
            lines = ["file_name,text,split", *(f'{row["file_name"]},"{row["text"]}",' for row in rows)]
            (folder / "metadata.csv").write_bytes(MARK + "\r\n".join(lines).encode())
        case "parquet":
            columns = {name: pa.array([row[name] for row in rows], pa.string()) for name in rows[0]}
            parquet.write_table(pa.table(columns), folder / "metadata.parquet")
        case "txt":
            for row in rows:
                (folder / row["file_name"]).with_suffix(".txt").write_text(row["text"].replace(", ", ",\n") + "\n")
            (folder / "notes.txt").write_text("of no picture")
    assert captions(folder, tmp_path) == {"a.png": ("a a.png, red",), "b.jpg": ("a b.jpg, red",)}
    assert list_prompted(folder) == ([folder / "a.png", folder / "b.jpg"], ["a a.png, red", "a b.jpg, red"])


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("metadata.csv", "file_name,text\nc.png,x\n", r"metadata.csv, line 2: c.png is not a file in"),
        ("metadata.csv", "file_name\na.png\n", r"metadata.csv, line 2: no 'text'"),
        ("metadata.csv", "file;text\na.png;x\n", r"line 2: no 'file_name', only file;text; .* columns file_name and"),
        ("metadata.csv", "file_name,text\na.png,a red, round hat\n", r"line 2: has more values than columns; put a"),
        ("metadata.csv", "file_name,text\na.png,\n", r"metadata.csv, line 2: 'text' is \"\"; it must be a string"),
        ("metadata.csv", "file_name,text\n../a.png,x\n", r"line 2: \.\./a.png is not a file in"),
        ("metadata.parquet", "PAR1", r"metadata.parquet: a damaged parquet file"),
        ("a.txt", " ", r"a.txt: 'text' is \"\"; it must be a string that is not empty"),
    ],
)
def test_unusable_captions_are_named(tmp_path: Path, file: str, content: str, why: str) -> None:
    picture(tmp_path / "p" / "a.png")
    (tmp_path / "p" / file).write_text(content)
    with pytest.raises(BadInput, match=why):
        open_source(tmp_path / "p", size=16, cache=tmp_path / "cache")


def test_a_table_takes_precedence_over_text_files(tmp_path: Path) -> None:
    folder = photos(tmp_path / "p", 2)
    (folder / "0.txt").write_text("of another program")
    assert captions(folder, tmp_path)["0.png"] == ("number 0",)


def shard(file: Path, members: dict[str, bytes | None]) -> Path:
    """A tar file of these files; None is a link."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            member.size = len(content or b"")
            tar.addfile(member, io.BytesIO(content or b""))
    return file


def colours(tmp_path: Path) -> list[bytes]:
    return [picture(tmp_path / "x.png", colour).read_bytes() for colour in ("#ff0000", "#00ff00", "#0000ff")]


def test_shards_of_webdataset(tmp_path: Path) -> None:
    red, green, blue = colours(tmp_path)
    shard(tmp_path / "p" / "train-000.tar", {
        "1.png": red, "1.txt": MARK + b"one\r\n", "1.seg.png": b"a mask", "d/2.txt": b"two", "d/2.PNG": green,
        "link.png": None, "link.txt": b"a link", "._1.png": b"of a Mac", "alone.png": red,
    })  # fmt: skip
    shard(tmp_path / "p" / "more" / "val-000.tar", {
        "1.json": json.dumps({"caption": "three", "width": 16}).encode(), "1.png": blue,
        "2.json": json.dumps({"text": "four", "split": "test"}).encode(), "2.png": b"spoiled",
    })  # fmt: skip
    with pytest.warns(UserWarning, match="2 unusable pictures: ") as caught:
        pictures = open_source(tmp_path / "p", size=16, cache=tmp_path / "cache")
    assert "train-000.tar/alone (has no caption); more/val-000.tar/2 (not a picture)" in str(caught[0].message)
    assert {pictures.key(i): pictures.captions(i) for i in range(3)} == {
        "train-000.tar/1": ("one",), "train-000.tar/d/2": ("two",), "more/val-000.tar/1": ("three",),
    }  # fmt: skip
    assert [pictures[i][:, 0, 0].tolist() for i in range(3)] == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert pictures.parts[0].corpus.splits == ["train", "train", "validation", "test"]
    assert len(open_source(tmp_path / "p" / "train-000.tar", size=16, cache=tmp_path / "cache", split="train")) == 1
    assert len(pickle.loads(pickle.dumps(pictures))) == 3


def test_folders_name_the_split_of_shards_and_tables(tmp_path: Path) -> None:
    """`validation/0000.parquet`, as the Hub converts data sets, was trained on, and so was a row in
    `validation-0.parquet` whose `split` is null."""
    (red, green, _), home = colours(tmp_path), tmp_path / "p"

    def table(name: str, **more: object) -> None:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.table({"image": [red, green], "text": ["a", "b"], **more}), home / name)

    def splits(folder: Path) -> dict[str, str]:
        corpus = open_source(folder, size=16, cache=tmp_path / "cache").parts[0].corpus
        return dict(zip(corpus.keys, corpus.splits, strict=True))

    table("default/train/0000.parquet")
    table("default/validation/0000.parquet", split=[None, "test"])
    table("test/train-0.parquet")
    table("val-0.parquet", split=["", None])
    assert splits(home) == {
        "default/train/0000.parquet#0": "train", "default/train/0000.parquet#1": "train",
        "default/validation/0000.parquet#0": "validation", "default/validation/0000.parquet#1": "test",
        "test/train-0.parquet#0": "train", "test/train-0.parquet#1": "train",
        "val-0.parquet#0": "validation", "val-0.parquet#1": "validation",
    }  # fmt: skip
    for split in ("train", "val"):
        shard(tmp_path / "tar" / split / "0.tar", {"1.png": red, "1.txt": b"one"})
    assert splits(tmp_path / "tar") == {"train/0.tar/1": "train", "val/0.tar/1": "validation"}


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"1.png": b"", "1.txt": b"\xff"}, r"p.tar, 1.txt: not UTF-8 text"),
        ({"1.png": b"", "1.txt": b" \n"}, r"p.tar, 1.txt: 'text' must be a string that is not empty"),
        ({"1.png": b"", "1.json": b"[]"}, r"p.tar, 1.json: not a JSON object"),
        ({"1.png": b"", "1.json": b'{"text": 3}'}, r"p.tar, 1.json: 'text' must be a string"),
        (
            {"1.png": b"", "1.txt": b"x" * (2**20 + 1)},
            r"p.tar, 1.txt: 1,048,577 bytes of text; must be at most 1,0",
        ),
        ({"1.png": b"", "1.jpg": b""}, r"p.tar: 1.jpg is the second picture with the name 1"),
        ({"1.txt": b"a"}, r"p: no picture has a caption"),
    ],
)
def test_shards_that_cannot_be_used(tmp_path: Path, members: dict[str, bytes | None], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        open_source(shard(tmp_path / "p.tar", members), size=16, cache=tmp_path / "cache")


def test_a_folder_of_two_kinds_is_refused(tmp_path: Path) -> None:
    """One shard in a folder of captioned pictures, and all of the pictures were left out without a word."""
    red = colours(tmp_path)[0]
    picture(tmp_path / "p" / "preview.png")
    shard(tmp_path / "p" / "x" / "0.tar", {"1.png": red, "1.txt": b"one"})
    assert len(open_source(tmp_path / "p", size=16, cache=tmp_path / "cache")) == 1
    (tmp_path / "p" / "preview.txt").write_text("a caption")
    with pytest.raises(BadInput, match=r"p: has both .tar files and preview.txt; give each kind of file a"):
        open_source(tmp_path / "p", size=16, cache=tmp_path / "cache")
    parquet.write_table(pa.table({"image": [red], "text": ["a"]}), tmp_path / "p" / "a.parquet")
    with pytest.raises(BadInput, match=r"p: has both .parquet files and 0.tar"):
        open_source(tmp_path / "p", size=16, cache=tmp_path / "cache")


def test_damaged_shards(tmp_path: Path) -> None:
    red = colours(tmp_path)[0]
    file = shard(tmp_path / "p.tar", {"1.png": red, "1.txt": b"one", "2.png": red, "2.txt": b"two"})
    whole = file.read_bytes()

    def said(content: bytes) -> str:
        file.write_bytes(content)
        with pytest.raises(BadInput) as error:
            open_source(file, size=16, cache=tmp_path / "cache")
        return str(error.value)

    assert "not a tar file, or a compressed one" in said(gzip.compress(whole))
    assert "not a tar file, or a compressed one" in said(b"x" * 2048)
    assert "ends within 1.png" in said(whole[:600])
    second = whole.index(b"2.png")
    assert "ends without the zeros that end a tar file" in said(whole[:second])
    assert f"a damaged tar file (at byte {second:,})" in said(whole[:second] + b"\xff" * 512 + whole[second + 512 :])


def test_folder_names_are_captions_with_labels(tmp_path: Path) -> None:
    for name in ("train/tabby_cat/1.png", "train/sea-lion/1.png", "test/tabby_cat/1.png", "stray.png", "train/x.png"):
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        picture(tmp_path / "p" / name)
    with pytest.warns(UserWarning, match=r"2 unusable pictures: stray.png \(has no caption\); train/x.png"):
        pictures = open_source(f"labels:{tmp_path / 'p'}", size=16, cache=tmp_path / "cache")
    assert {pictures.key(i): pictures.captions(i) for i in range(3)} == {
        "train/tabby_cat/1.png": ("tabby cat",), "train/sea-lion/1.png": ("sea lion",),
        "test/tabby_cat/1.png": ("tabby cat",),
    }  # fmt: skip
    # once they were one source, so codes with the captions of one replaced those with the captions of the other
    assert identity(f"labels:{tmp_path / 'p'}")["id"] != identity(str(tmp_path / "p"))["id"]
    assert sorted(pictures.parts[0].corpus.splits) == ["test", "train", "validation"]
    with pytest.raises(BadInput, match="p: no captions"):
        open_source(tmp_path / "p", size=16, cache=tmp_path / "cache")
    (tmp_path / "flat").mkdir()
    picture(tmp_path / "flat" / "1.png")
    with pytest.raises(BadInput, match=r"flat: has no picture in a folder with a label, as in flat/cat/1.jpg"):
        open_source(f"labels:{tmp_path / 'flat'}", size=16, cache=tmp_path / "cache")
    with pytest.raises(BadInput, match="nowhere: no such file or folder"):
        open_source(f"labels:{tmp_path / 'nowhere'}", size=16, cache=tmp_path / "cache")


def test_tables_are_read_a_row_group_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole tables were copied into the cache, and a few compressed bytes can stand for any number of pictures."""
    contents = [picture(tmp_path / "x.png", f"#{i:02x}0000").read_bytes() for i in range(40)]
    file = tmp_path / "p.parquet"
    parquet.write_table(pa.table({"image": contents, "text": [f"{i}" for i in range(40)]}), file, row_group_size=7)
    pictures = open_source(file, size=16, cache=tmp_path / "cache")
    assert [int(pictures[i][0, 0, 0]) for i in range(40)] == list(range(40))
    assert not (tmp_path / "cache" / "datasets").exists()
    table = pickle.loads(pickle.dumps(pictures)).parts[0].corpus._tables[0]
    for row in (39, 3, 20, 3):
        assert table.picture(row) == contents[row]
        assert len(table._groups) <= 2

    monkeypatch.setattr(tables, "_MAX_BYTES", 2**24)
    parquet.write_table(pa.table({"image": [b"x" * 2**18] * 100, "text": ["a"] * 100}), file)
    assert file.stat().st_size < 2**17
    with pytest.raises(BadInput, match="row group 0 holds over 0 GiB of pictures; write smaller ones"):
        open_source(file, size=16, cache=tmp_path / "cache")
