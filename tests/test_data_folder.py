import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from data import folder, parquet
from data.captioned import CaptionedImages
from data.source import open_source
from training.errors import BadInput

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def describe(folder: Path, *records: object, name: str = "metadata.jsonl") -> None:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (folder / name).write_text("".join(f"{line}\n" for line in lines))


def plain(folder: Path, *files: str) -> list[dict[str, str]]:
    """Saves a red picture under each name; returns their rows of metadata."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), RED).save(folder / file)
    return [{"file_name": file, "text": f"a picture called {file}"} for file in files]


def open_photos(source: Path, **options: Any) -> CaptionedImages:
    return open_source(source, size=16, cache=source.parent / "cache", **options)


def keys(pictures: CaptionedImages) -> list[str]:
    return [pictures.key(i) for i in range(len(pictures))]


def test_a_folder_of_pictures(photos: Path) -> None:
    describe(photos, *plain(photos, "a.png", "deep/b.jpg"), "")
    pictures = open_photos(photos)
    assert pictures.name == "photos-16/all"
    assert keys(pictures) == ["a.png", "deep/b.jpg"]
    assert pictures.captions(1) == ("a picture called deep/b.jpg",)
    assert pictures[0].shape == (3, 16, 16) and pictures[0].dtype == torch.uint8
    assert (pictures[0] == torch.tensor(RED)[:, None, None]).all()


def test_pickled_pictures_are_the_same(photos: Path) -> None:
    describe(photos, *plain(photos, "a.png"))
    pictures = open_photos(photos)
    copied: CaptionedImages = pickle.loads(pickle.dumps(pictures))
    assert (copied[0] == pictures[0]).all() and copied.captions(0) == pictures.captions(0)


def test_names_with_odd_characters(tmp_path: Path) -> None:
    folder = tmp_path / "[1] ünï*code"
    folder.mkdir()
    describe(folder, *plain(folder, "a [x].png", "ß {1}.png"))
    assert keys(open_photos(folder)) == ["a [x].png", "ß {1}.png"]
    write_parquet(folder / "p [1].parquet", {"image": [png()], "text": ["a"]})
    assert keys(open_photos(folder / "p [1].parquet")) == ["p [1].parquet#0"]


def test_splits_by_folder_with_metadata_in_each(photos: Path) -> None:
    for split in ("train", "val"):
        (photos / split).mkdir()
        describe(photos / split, *plain(photos / split, "a.png"))
    assert keys(open_photos(photos, split="validation")) == ["val/a.png"]
    assert keys(open_photos(photos, split="train")) == ["train/a.png"]
    assert len(open_photos(photos)) == 2


def test_splits_by_folder_with_metadata_above(photos: Path) -> None:
    describe(photos, *plain(photos, "train/a.png", "test/b.png", "other/c.png", "val/d.png"))
    assert keys(open_photos(photos, split="test")) == ["test/b.png"]
    assert keys(open_photos(photos, split="train")) == ["train/a.png", "other/c.png"]
    assert keys(open_photos(photos, split="validation")) == ["val/d.png"]


def test_splits_by_column(photos: Path) -> None:
    one, two = plain(photos, "a.png", "b.png")
    describe(photos, {**one, "split": "dev"}, {**two, "split": "train"})
    assert keys(open_photos(photos, split="validation")) == ["a.png"]


def test_splits_by_hash(photos: Path) -> None:
    describe(photos, *plain(photos, *(f"{i}.png" for i in range(40))))
    train, validation = (keys(open_photos(photos, split=split)) for split in ("train", "validation"))
    assert sorted(train + validation) == sorted(f"{i}.png" for i in range(40))
    assert validation == ["6.png", "33.png"]


def square(picture: Image.Image, folder: Path, file: str = "picture.png", **save: Any) -> torch.Tensor:
    picture.save(folder / file, **save)
    describe(folder, {"file_name": file, "text": "a picture"})
    return open_photos(folder)[0]


def test_the_long_side_is_cropped_at_the_centre(photos: Path) -> None:
    picture = Image.new("RGB", (60, 20), BLUE)
    picture.paste(RED, (20, 0, 40, 20))
    assert (square(picture, photos)[:, :, 2:-2] == torch.tensor(RED)[:, None, None]).all()


def test_small_pictures_are_enlarged(photos: Path) -> None:
    assert (square(Image.new("RGB", (9, 8), RED), photos) == torch.tensor(RED)[:, None, None]).all()


@pytest.mark.parametrize("size", [(5, 3), (40, 7)])
def test_pictures_smaller_than_a_patch_are_left_out(photos: Path, size: tuple[int, int]) -> None:
    """A stray tracking pixel was enlarged to a whole picture."""
    describe(photos, *plain(photos, "a.png", "b.png"))
    Image.new("RGB", size, RED).save(photos / "a.png")
    said = rf"1 unusable picture: a.png \(only {size[0]}x{size[1]} pixels; must have 8 or more on each side\)"
    with pytest.warns(UserWarning, match=said):
        assert keys(open_photos(photos)) == ["b.png"]
    with pytest.raises(BadInput, match=said):
        open_photos(photos, strict=True)


@pytest.mark.parametrize("corpus", [folder, parquet])
def test_pictures_of_another_version_are_rendered_again(
    corpus: ModuleType, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(photos, *plain(photos, "a.png"))
    source = photos if corpus is folder else photos / "p.parquet"
    write_parquet(photos / "p.parquet", {"image": [png()], "text": ["a"]})
    before = open_photos(source).parts[0].folder
    monkeypatch.setattr(corpus, "VERSION", -1)
    assert open_photos(source).parts[0].folder != before


def test_broken_links_are_left_out(photos: Path) -> None:
    """One broken link ended the command with a `FileNotFoundError`."""
    describe(photos, *plain(photos, "a.png"), {"file_name": "gone.png", "text": "gone"})
    (photos / "gone.png").symlink_to(photos / "nowhere.png")
    (photos / "stray.png").symlink_to(photos / "stray.png")
    with pytest.warns(UserWarning, match="2 unusable pictures: ") as caught:
        assert keys(open_photos(photos)) == ["a.png"]
    assert "gone.png (No such file or directory)" in str(caught[0].message)
    assert "stray.png (has no caption)" in str(caught[0].message)


def test_changed_pictures_of_any_name_are_rendered_again(photos: Path) -> None:
    """Changes were noticed only in files with the suffix of a picture."""
    describe(photos, {"file_name": "cat.picture", "text": "a cat"}, {"file_name": ".old/dog.png", "text": "a dog"})
    (photos / ".old").mkdir()
    for color in (RED, BLUE):
        for file in ("cat.picture", ".old/dog.png"):
            Image.new("RGB", (20, 20), color).save(photos / file, format="BMP")
        assert all((picture == torch.tensor(color)[:, None, None]).all() for picture in open_photos(photos))


def test_pictures_stand_upright(photos: Path) -> None:
    picture = Image.new("RGB", (64, 64), BLUE)
    picture.paste(RED, (0, 0, 64, 32))  # red above, to be turned a quarter clockwise: red on the right
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = square(picture, photos, "picture.jpg", exif=exif, quality=95).float()
    assert turned[0, :, 10:].mean() > 200 > 60 > turned[0, :, :6].mean()


def clear(mode: str) -> Image.Image:
    """Red at the left. The rest contains red too, but is transparent."""
    picture = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (0, 0, 16, 32))
    if mode == "P":
        palette = Image.new("P", (32, 32), 1)
        palette.putpalette([*RED, *RED])
        palette.paste(0, (0, 0, 16, 32))
        palette.info["transparency"] = 1
        return palette
    return picture.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_become_white(photos: Path, mode: str) -> None:
    picture = square(clear(mode), photos)
    assert (picture[:, :, 12:] == 255).all()
    assert (picture[1, :, :4] < 120).all()


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr", "P"])
def test_other_modes_are_converted(photos: Path, mode: str) -> None:
    picture = Image.new("RGB", (32, 32), WHITE)
    picture.paste((0, 0, 0), (0, 0, 16, 32))
    # Pillow before 13 cannot read the YCbCr that it writes without compression
    drawn = square(picture.convert(mode), photos, "picture.tif", compression="tiff_lzw").float()
    assert drawn[:, :, :6].max() < 40 and drawn[:, :, 10:].min() > 215


def test_grey_of_sixteen_bits_keeps_its_range(photos: Path) -> None:
    """Pillow's own conversion turns every sample above 255 (of 65,535) into white."""
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16)[None].repeat(64, axis=0)
    row = square(Image.fromarray(ramp), photos)[0, 8].int()
    assert row[0] < 12 and row[-1] > 243 and (row.diff() > 8).all()


def spoil(photos: Path) -> None:
    describe(photos, *plain(photos, "good.png", "text.png", "cut.jpg", "empty.png"))
    (photos / "text.png").write_text("not a picture at all")
    (photos / "cut.jpg").write_bytes((photos / "cut.jpg").read_bytes()[:400])
    (photos / "empty.png").write_bytes(b"")
    plain(photos, "stray.png")


def test_unusable_pictures_are_left_out_counted_and_named(photos: Path) -> None:
    spoil(photos)
    for _ in range(2):  # also when they are in the cache
        with pytest.warns(UserWarning) as caught:
            pictures = open_photos(photos)
        assert keys(pictures) == ["good.png"]
        message = str(caught[0].message)
        assert message.startswith("photos-16/all: 4 unusable pictures: ")
        assert "text.png (not a picture)" in message and "empty.png (not a picture)" in message
        assert "cut.jpg (Truncated File Read)" in message
        assert "stray.png (has no caption)" in message


def test_unusable_pictures_are_fatal_when_strict(photos: Path) -> None:
    spoil(photos)
    with pytest.raises(BadInput, match=r"4 unusable pictures: stray.png"):
        open_photos(photos, strict=True)


def test_many_unusable_pictures_do_not_fill_the_screen(photos: Path) -> None:
    describe(photos, *plain(photos, *(f"{i:02}.png" for i in range(15))))
    for i in range(1, 15):
        (photos / f"{i:02}.png").write_text("spoiled")
    with pytest.warns(UserWarning, match=r"14 unusable .*10\.png \(not a picture\); and 4 more, which python -m"):
        open_photos(photos)


def test_changed_files_are_read_again(photos: Path) -> None:
    """Also if no file changes its size."""
    Image.new("RGB", (20, 20), RED).save(photos / "a.bmp")
    describe(photos, {"file_name": "a.bmp", "text": "red."})
    before = open_photos(photos)
    Image.new("RGB", (20, 20), BLUE).save(photos / "a.bmp")
    describe(photos, {"file_name": "a.bmp", "text": "blue"})
    after = open_photos(photos)
    assert after.captions(0) == ("blue",)
    assert (after[0] == torch.tensor(BLUE)[:, None, None]).all()
    assert before.fingerprint != after.fingerprint


A = {"file_name": "a.png", "text": "a"}
BAD_METADATA: dict[str, tuple[list[object], str]] = {
    "no caption": ([A, {"file_name": "b.png"}], "metadata.jsonl, line 2: no 'text', only file_name; a metadata.jsonl"),
    "null caption": ([{**A, "text": None}], "line 1: 'text' is null; it must be a string that is not empty"),
    "number": ([{**A, "text": 7}], "line 1: 'text' is 7; it must be a string"),
    "empty caption": ([{**A, "text": " \n"}], r"line 1: 'text' is \" \\n\"; it must be a string"),
    "list": ([{**A, "text": ["a"]}], r"line 1: 'text' is \[\"a\"\]; it must be a string"),
    "half a pair": (['{"file_name": "a.png", "text": "\\ud83d"}'], "surrogates not allowed"),
    "no file name": ([{"text": "a"}], "line 1: no 'file_name'"),
    "no such file": ([{**A, "file_name": "c.png"}], "line 1: c.png is not a file in .*photos"),
    "folder": ([{**A, "file_name": "."}], r"line 1: \. is not a file in"),
    "outside": ([{**A, "file_name": "../a.png"}], r"line 1: \.\./a.png is not a file in"),
    "twice": ([A, A], "line 2: a.png has a caption already"),
    "split": ([{**A, "split": 3}], "line 1: 'split' is 3; it must be a string"),
    "not JSON": ([A, "{'file_name': 'b.png'}"], "line 2: not valid JSON"),
    "not an object": (["[1, 2]"], "line 1: not a JSON object"),
    "not UTF-8": (["\udcff"], "line 1: not valid JSON"),
    "a field twice": (['{"file_name": "a.png", "file_name": "b.png", "text": "a"}'], "'file_name' appears twice"),
    "deep": (['{"file_name": "a.png", "text": ' + "[" * 100_000], "nested more than"),
    "a long number": (['{"file_name": "a.png", "text": ' + "9" * 5000 + "}"], "an integer of 5,000 digits"),
}


@pytest.mark.parametrize(("records", "message"), BAD_METADATA.values(), ids=BAD_METADATA.keys())
def test_bad_metadata_is_named_by_its_line(photos: Path, records: list[object], message: str) -> None:
    plain(photos, "a.png", "b.png")
    Image.new("RGB", (4, 4)).save(photos.parent / "a.png")
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (photos / "metadata.jsonl").write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    with pytest.raises(BadInput, match=message) as caught:
        open_photos(photos)
    assert "\n" not in str(caught.value)


def test_a_picture_elsewhere_is_refused_by_its_full_name_too(photos: Path) -> None:
    plain(photos.parent, "a.png")
    describe(photos, {**A, "file_name": str(photos.parent / "a.png")})
    with pytest.raises(BadInput, match=r"line 1: .*a.png is not a file in .*photos"):
        open_photos(photos)


def test_sources_that_do_not_exist(photos: Path) -> None:
    with pytest.raises(BadInput, match='nowhere: no such file or folder; give "emoji", "scenes", a folder'):
        open_photos(photos / "nowhere")
    plain(photos, "a.png")
    with pytest.raises(BadInput, match=r"photos: no captions; write a metadata.jsonl with a line like \{\"file_name\""):
        open_photos(photos)
    with pytest.raises(BadInput, match=r"a.png: not a source of pictures; give \"emoji\", \"scenes\", a folder"):
        open_photos(photos / "a.png")
    describe(photos)
    with pytest.raises(BadInput, match=r"photos: no captions; write a metadata.jsonl with a line like"):
        open_photos(photos)


def test_splits_that_do_not_exist(photos: Path) -> None:
    describe(photos, *plain(photos, "a.png", "b.png"))
    with pytest.raises(BadInput, match=r"photos: no split 'test'; there are (train, validation|validation, train)"):
        open_photos(photos, split="test")


def test_no_readable_picture_at_all(photos: Path) -> None:
    describe(photos, *plain(photos, "a.png"))
    (photos / "a.png").write_text("spoiled")
    with pytest.warns(UserWarning), pytest.raises(BadInput, match="photos: none of the pictures can be read"):
        open_photos(photos)


def png(color: tuple[int, int, int] = RED) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), color).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path: Path, columns: Mapping[str, list[Any]], **features: Any) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    datasets.Dataset.from_dict(dict(columns)).to_parquet(str(path))


def test_parquet_with_bytes(tmp_path: Path) -> None:
    file = tmp_path / "photos.parquet"
    write_parquet(file, {"image": [png(), png(BLUE)], "text": ["red", " blue "], "split": ["train", "test"]})
    pictures = open_photos(file)
    assert (pictures.name, keys(pictures)) == ("photos-16/all", ["photos.parquet#0", "photos.parquet#1"])
    assert pictures.captions(1) == ("blue",)
    assert (pictures[1] == torch.tensor(BLUE)[:, None, None]).all()
    assert keys(open_photos(file, split="test")) == ["photos.parquet#1"]


def test_parquet_as_datasets_writes_it(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    table = datasets.Dataset.from_dict({"image": [Image.new("RGB", (9, 9), BLUE)], "text": ["blue"]}, features)
    table.to_parquet(str(tmp_path / "photos.parquet"))
    assert (open_photos(tmp_path / "photos.parquet")[0] == torch.tensor(BLUE)[:, None, None]).all()


def test_parquet_in_a_folder_is_split_by_file_name(photos: Path) -> None:
    write_parquet(photos / "train-00000-of-00002.parquet", {"image": [png()], "text": ["one"]})
    write_parquet(photos / "train-00001-of-00002.parquet", {"image": [png(), png(BLUE)], "text": ["two", "three"]})
    write_parquet(photos / "validation-00000-of-00001.parquet", {"image": [png()], "text": ["four"]})
    train = open_photos(photos, split="train")
    assert [train.captions(i) for i in range(3)] == [("one",), ("two",), ("three",)]
    assert (train[2] == torch.tensor(BLUE)[:, None, None]).all()
    assert open_photos(photos, split="validation").captions(0) == ("four",)


def test_unreadable_pictures_in_parquet(tmp_path: Path) -> None:
    file = tmp_path / "photos.parquet"
    write_parquet(file, {"image": [png(), b"spoiled", None], "text": ["a", "b", "c"]})
    with pytest.warns(UserWarning, match=r"photos.parquet#1 \(not a picture\); photos.parquet#2 \(the column"):
        assert keys(open_photos(file)) == ["photos.parquet#0"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"picture": [b""], "text": ["a"]}, "photos.parquet: no column 'image'; its columns are picture, text"),
        ({"image": [b""], "caption": ["a"]}, "photos.parquet: no column 'text'; its columns are image, caption"),
        (
            {"image": [b""], "text": ["a"], "split": [1]},
            "the column 'split' is of type .*int64.*; it must hold strings",
        ),
        ({"image": [b""], "text": [3]}, "the column 'text' is of type .*int64.*; it must hold strings"),
        ({"image": [b"", b""], "text": ["a", None]}, "photos.parquet, row 1: no text; every picture must have"),
        ({"image": [b""], "text": ["  "]}, "photos.parquet, row 0: no text; every picture must have"),
        (
            {"image": ["a.png"], "text": ["a"]},
            "the column 'image' is of type .*string.*; it must hold encoded pictures",
        ),
    ],
)
def test_bad_parquet(tmp_path: Path, columns: dict[str, list[Any]], message: str) -> None:
    write_parquet(tmp_path / "photos.parquet", columns)
    with pytest.raises(BadInput, match=message):
        open_photos(tmp_path / "photos.parquet")


def test_parquet_without_rows(photos: Path) -> None:
    empty = datasets.Dataset.from_dict({"image": [b""], "text": ["a"]}).select([])
    empty.to_parquet(str(photos / "train-0.parquet"))
    with pytest.raises(BadInput, match="photos: no picture has a caption"):
        open_photos(photos)
    write_parquet(photos / "train-1.parquet", {"image": [png()], "text": ["a"]})
    assert keys(open_photos(photos)) == ["train-1.parquet#0"]


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    file = tmp_path / "photos.parquet"
    write_parquet(file, {"image": [png()] * 50, "text": [f"a picture, {i}" for i in range(50)]})
    spoiled = bytearray(file.read_bytes())
    spoiled[4:60] = bytes(56)
    file.write_bytes(spoiled)
    with pytest.raises(BadInput, match=r"photos.parquet: a damaged parquet file"):
        open_photos(file)


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_a_truncated_parquet_file(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "photos.parquet"
    write_parquet(file, {"image": [png()], "text": ["a"]})
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(BadInput, match=r"photos.parquet: not a complete parquet file"):
        open_photos(file)
