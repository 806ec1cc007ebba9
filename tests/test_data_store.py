"""Stores: rows are written in any order by several processes, and opening takes constant time."""

import json
import pickle
import re
import resource
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from data.store import Array, Store, content_hash
from data.store_writer import Part, begin, finish, part_of
from training.errors import BadInput

TEXTS = [
    (f"{i}.png", f"group {i // 2}", [f"caption {j} of \U0001f98a {i}" for j in range(1 + i % 3)]) for i in range(10)
]


@dataclass(frozen=True, kw_only=True)
class Info:
    """Two arrays per row."""

    kind: ClassVar[str] = "numbers"
    size: int = 3

    @property
    def arrays(self) -> Mapping[str, Array]:
        return {"wide": Array("float32", (2, self.size)), "single": Array("uint16")}


@dataclass(frozen=True, kw_only=True)
class OtherInfo(Info):
    kind: ClassVar[str] = "others"


def rows(first: int, count: int) -> dict[str, np.ndarray]:
    numbers = np.arange(first, first + count)
    return {"wide": numbers[:, None, None] + np.zeros((1, 2, 3)), "single": numbers}


def write(folder: Path, *parts: tuple[int, int], info: Info = Info()) -> Path:
    begin(folder, info, TEXTS)
    with Part(folder, info) as part:
        for first, count in parts or ((0, 10),):
            part.write(first, **rows(first, count))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    finish(write(tmp_path / "store"), Info())
    return tmp_path / "store"


def assert_whole(folder: Path) -> None:
    store = Store(folder, Info)
    store.verify()
    assert len(store) == 10
    assert store.array("single").tolist() == list(range(10))
    assert store.array("wide")[:, 1, 2].tolist() == list(range(10))
    assert store.array("group").tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert [(store.key(i), list(store.captions(i))) for i in range(10)] == [(key, texts) for key, _, texts in TEXTS]


def test_round_trip(folder: Path) -> None:
    assert_whole(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["store.json", "texts.jsonl", "texts.bin", "wide.bin", "single.bin", "group.bin", "digest.bin", "state.bin"]
    )
    assert (folder / "wide.bin").stat().st_size == 10 * 6 * 4  # and nothing else is in it
    with pytest.raises(ValueError, match="read-only"):
        Store(folder, Info).array("wide")[0] = 1


def test_rows_come_from_several_processes_in_any_order(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    begin(folder, Info(), TEXTS)
    with Part(folder, Info()) as one, Part(folder, Info()) as other:
        other.write(5, **rows(5, 5))
        assert one.missing().tolist() == [0, 1, 2, 3, 4]
        with pytest.raises(BadInput, match="5 rows are missing; give the same command again"):
            finish(folder, Info())
        one.write(0, **rows(0, 5))
    finish(folder, Info())
    assert_whole(folder)


def test_rows_that_a_killed_process_did_not_write_are_written_later(tmp_path: Path) -> None:
    folder = write(tmp_path / "store", (0, 4), (7, 1))
    assert begin(folder, Info(), TEXTS) == 10
    with Part(folder, Info()) as part:
        assert part.missing().tolist() == [4, 5, 6, 8, 9]


def test_rows_damaged_by_a_power_cut_are_written_again(tmp_path: Path) -> None:
    folder = write(tmp_path / "store")
    file = part_of(folder) / "wide.bin"
    content = bytearray(file.read_bytes())
    content[6 * 4 * 3] ^= 1
    file.write_bytes(content)
    begin(folder, Info(), TEXTS)
    with Part(folder, Info()) as part:
        assert part.missing().tolist() == [3]


@pytest.mark.parametrize("other", [(Info(size=4), TEXTS), (Info(), TEXTS[:9]), (Info(), [*TEXTS[:9], ("x", "y", ())])])
def test_another_plan_starts_a_new_store(tmp_path: Path, other: tuple[Info, list]) -> None:
    folder = write(tmp_path / "store", (0, 4))
    begin(folder, *other)
    with Part(folder, other[0]) as part:
        assert len(part.missing()) == len(other[1])


def test_rows_left_out_are_named_and_tried_again(tmp_path: Path) -> None:
    folder = write(tmp_path / "store", (0, 5), (6, 4))
    with Part(folder, Info()) as part:
        part.leave_out(5, "it is broken")
        assert part.missing().tolist() == []
    begin(folder, Info(), TEXTS)
    with Part(folder, Info()) as part:
        assert part.missing().tolist() == [5]
        part.leave_out(5, "it is still broken")
    finish(folder, Info())
    store = Store(folder, Info)
    store.verify()
    assert store.left_out == {"5.png": "it is still broken"}
    assert store.array("state").tolist() == [1, 1, 1, 1, 1, 2, 1, 1, 1, 1]


def lengthen(file: Path) -> None:
    """Makes JSON as long as 400,000 reasons."""
    file.write_text(file.read_text().rstrip()[:-1] + " " * 2**24 + "}\n")


def test_many_rows_can_be_left_out(tmp_path: Path) -> None:
    """Once, a store with more than 16 MiB of reasons could never be finished, nor replaced."""
    folder = write(tmp_path / "store", (0, 5), (6, 4))
    with Part(folder, Info()) as part:
        part.leave_out(5, "it is broken")
    lengthen(part_of(folder) / "left-out.jsonl")
    finish(folder, Info())
    lengthen(folder / "store.json")
    assert Store(folder, Info).left_out == {"5.png": "it is broken"}
    assert begin(folder, Info(), TEXTS) == 10


def test_an_empty_store(tmp_path: Path) -> None:
    begin(tmp_path / "store", Info(), [])
    finish(tmp_path / "store", Info())
    store = Store(tmp_path / "store", Info)
    store.verify()
    assert (len(store), store.array("wide").shape) == (0, (0, 2, 3))


def test_a_name_that_is_not_utf_8_is_kept(tmp_path: Path) -> None:
    """File systems allow such names. Python represents them with lone surrogates."""
    begin(tmp_path / "store", Info(), [("\udcff.png", "\udcff", ())])
    with Part(tmp_path / "store", Info()) as part:
        part.leave_out(0, "cannot be read: \udcff")
    finish(tmp_path / "store", Info())
    store = Store(tmp_path / "store", Info)
    assert store.key(0) == "\udcff.png"
    assert store.left_out == {"\udcff.png": r"cannot be read: \udcff"}


def cut(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-2])


def edited(**values: object) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        file = folder / "store.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return damage


DAMAGES = {
    "wide": (cut("wide.bin"), "wide.bin has 238 bytes of 240"),
    "texts": (cut("texts.jsonl"), "texts.jsonl has "),
    "gone": (lambda folder: (folder / "state.bin").unlink(), "state.bin has 0 bytes of 10"),
    "head": (cut("store.json"), "not valid JSON"),
    "rows": (edited(rows=9), "store.json was changed"),
    "info": (edited(info={"size": 4}), "store.json was changed"),
    "version": (edited(version=99), "not that of a store of numbers, version 1"),
    "kind": (edited(kind="others"), "not that of a store of numbers, version 1"),
    "no head": (lambda folder: (folder / "store.json").unlink(), "holds no store of numbers"),
    "null": (lambda folder: (folder / "store.json").write_text("null"), "not a JSON object"),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_store_is_refused_in_one_line(folder: Path, damage: Callable[[Path], object], said: str) -> None:
    damage(folder)
    with pytest.raises(BadInput, match=re.escape(said)) as error:
        Store(folder, Info)
    assert str(error.value).startswith(str(folder)) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["wide.bin", "single.bin", "texts.jsonl", "texts.bin", "group.bin", "state.bin"])
def test_verify_finds_a_changed_byte(folder: Path, name: str) -> None:
    file = folder / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    store = Store(folder, Info)
    with pytest.raises(BadInput, match=r"(was|were) changed or damaged; delete the folder"):
        store.verify()


def test_damaged_texts_are_refused_when_read(folder: Path) -> None:
    lines = (folder / "texts.jsonl").read_bytes()
    (folder / "texts.jsonl").write_bytes(b"[" * len(lines))
    with pytest.raises(BadInput, match="line 4: not a key and captions"):
        Store(folder, Info).captions(3)


def test_a_pickled_store_carries_no_rows(folder: Path) -> None:
    store = Store(folder, Info)
    store.captions(3)
    pickled = pickle.dumps(store)
    assert len(pickled) < 1000
    assert pickle.loads(pickled).captions(3) == store.captions(3)
    assert np.array_equal(pickle.loads(pickled).array("wide"), store.array("wide"))


def test_a_store_replaces_only_an_older_store(folder: Path, tmp_path: Path) -> None:
    """`tokenizer.encode --data photos --out photos` replaced the pictures in photos/train with their codes."""
    finish(write(folder, info=OtherInfo()), OtherInfo())
    assert Store(folder, OtherInfo).info == OtherInfo()
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    (tmp_path / "photos").mkdir()
    write(tmp_path / "photos")  # an empty folder is fine
    (tmp_path / "file").write_text("dear")
    (folder / "LICENSE").write_text("dear")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "cat.jpg").write_text("dear")
    for taken in ("store", "file", "pictures"):
        with pytest.raises(BadInput, match="holds something else than a store of Tessera; choose another --out"):
            write(tmp_path / taken)
    assert (tmp_path / "pictures" / "cat.jpg").read_text() == (folder / "LICENSE").read_text() == "dear"


def test_a_full_disk_raises_oserror_and_leaves_the_row_missing(tmp_path: Path) -> None:
    """With a memory map, a full disk would kill the process."""
    folder = tmp_path / "store"
    begin(folder, Info(), TEXTS)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with Part(folder, Info()) as part:
        part.write(0, **rows(0, 2))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            with pytest.raises(OSError, match="File too large") as error:
                part.write(2, **rows(2, 8))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
        assert error.value.filename == str(part_of(folder) / "wide.bin")
        assert part.missing().tolist() == list(range(2, 10))


def test_opening_reads_no_rows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = np.memmap.__new__
    monkeypatch.setattr(
        np.memmap,
        "__new__",
        lambda cls, file, *rest, **more: opened.append(str(file)) or real(cls, file, *rest, **more),
    )
    store = Store(folder, Info)
    assert opened == []
    store.array("single")
    assert str(folder / "single.bin") in opened  # the watch works


def test_the_hash_covers_everything(folder: Path, tmp_path: Path) -> None:
    again = write(tmp_path / "again", (3, 7), (0, 3))
    finish(again, Info())
    assert content_hash(again) == content_hash(folder) == Store(folder, Info).hash
