import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from data import store as store_module
from data.store import PictureStore, Unreadable, open_store

SIZE = 16
KEYS = [f"picture {i}" for i in range(10)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_CHUNK", 4)


def drawing(drawn: list[int], broken: tuple[int, ...] = ()) -> Callable[[int], NDArray[np.uint8]]:
    """A drawing function that notes in `drawn` what it was asked for."""

    def draw(job: int) -> NDArray[np.uint8]:
        drawn.append(job)
        if job in broken:
            raise Unreadable("it is broken")
        return np.full((3, SIZE, SIZE), job, np.uint8)

    return draw


def open_ten(folder: Path, drawn: list[int], broken: tuple[int, ...] = ()) -> PictureStore:
    return open_store(folder, SIZE, KEYS, range(10), drawing(drawn, broken), label="test")


def assert_whole(store: PictureStore) -> None:
    assert store.keys == KEYS
    assert store.pictures.shape == (10, 3, SIZE, SIZE) and store.pictures.dtype == np.uint8
    assert all((picture == i).all() for i, picture in enumerate(store.pictures))


def test_pictures_are_drawn_once(tmp_path: Path) -> None:
    drawn: list[int] = []
    assert_whole(open_ten(tmp_path / "store", drawn))
    assert_whole(open_ten(tmp_path / "store", drawn))
    assert sorted(drawn) == list(range(10))
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["index.json", "pictures.uint8"]


def test_unreadable_pictures_are_left_out_and_named(tmp_path: Path) -> None:
    for _ in range(2):
        store = open_ten(tmp_path / "store", [], broken=(3, 8))
        assert store.skipped == {"picture 3": "it is broken", "picture 8": "it is broken"}
        assert [int(picture[0, 0, 0]) for picture in store.pictures] == [0, 1, 2, 4, 5, 6, 7, 9]


def test_a_store_of_nothing(tmp_path: Path) -> None:
    store = open_ten(tmp_path / "store", [], broken=tuple(range(10)))
    assert store.pictures.shape == (0, 3, SIZE, SIZE)


def truncate(store: Path) -> None:
    pictures = store / "pictures.uint8"
    pictures.write_bytes(pictures.read_bytes()[:-1])


def flip_a_bit(store: Path) -> None:
    pixels = bytearray((store / "pictures.uint8").read_bytes())
    pixels[5000] ^= 1
    (store / "pictures.uint8").write_bytes(pixels)


def drop_a_key(store: Path) -> None:
    index = json.loads((store / "index.json").read_text())
    index["keys"].pop()
    (store / "index.json").write_text(json.dumps(index))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "pictures.uint8 has": truncate,
    "picture picture 6 has changed": flip_a_bit,
    "does not list the 10 pictures": drop_a_key,
    "index.json cannot be read": lambda store: (store / "index.json").write_text('{"size": 16, "keys": ['),
    "cannot be read: .*holds a NoneType": lambda store: (store / "index.json").write_text("null"),
    "no such file": lambda store: (store / "index.json").unlink(),
    "has 0 bytes": lambda store: (store / "pictures.uint8").unlink(),
}


@pytest.mark.parametrize(("message", "damage"), DAMAGES.items())
def test_a_damaged_store_is_drawn_again(tmp_path: Path, message: str, damage: Callable[[Path], object]) -> None:
    open_ten(tmp_path / "store", [])
    damage(tmp_path / "store")
    drawn: list[int] = []
    with pytest.warns(UserWarning, match=f"damaged .*{message}.* drawing them again"):
        store = open_ten(tmp_path / "store", drawn)
    assert_whole(store)
    assert sorted(drawn) == list(range(10))


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from data import store
store._CHUNK = 4
def draw(job):
    if job == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return np.full((3, 16, 16), job, np.uint8)
store.open_store(Path(sys.argv[1]), 16, [f"picture {i}" for i in range(10)], range(10), draw, label="killed")
"""


def test_a_killed_drawing_goes_on_where_it_was(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "store")], stderr=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "store").exists()
    drawn: list[int] = []
    assert_whole(open_ten(tmp_path / "store", drawn))
    assert sorted(drawn) == [8, 9]


@pytest.mark.parametrize(
    ("spoil", "again"),
    [
        (lambda part: (part / "journal.jsonl").open("a").write('{"keys": ["picture 8"'), {8, 9}),
        (lambda part: (part / "pictures.uint8").open("ab").write(b"half a picture"), {8, 9}),
        (lambda part: (part / "pictures.uint8").open("r+b").write(b"spoiled"), set(range(10))),
        (lambda part: (part / "pictures.uint8").open("r+b").truncate(5 * 3 * SIZE * SIZE), set(range(4, 10))),
    ],
)
def test_only_whole_chunks_of_a_killed_drawing_are_kept(
    tmp_path: Path, spoil: Callable[[Path], object], again: set[int]
) -> None:
    def draw(job: int) -> NDArray[np.uint8]:
        if job == 9:
            raise RuntimeError("stands for a kill")
        return np.full((3, SIZE, SIZE), job, np.uint8)

    with pytest.raises(RuntimeError):
        open_store(tmp_path / "store", SIZE, KEYS, range(10), draw, label="test")
    spoil(tmp_path / ".store.part")
    drawn: list[int] = []
    assert_whole(open_ten(tmp_path / "store", drawn))
    assert set(drawn) == again


def test_two_who_want_the_same_pictures_draw_them_once(tmp_path: Path) -> None:
    drawn: list[int] = []
    together = [threading.Thread(target=open_ten, args=(tmp_path / "store", drawn)) for _ in range(4)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    assert sorted(drawn) == list(range(10))


def test_no_space_names_the_folder(tmp_path: Path) -> None:
    """The error of a full disk names no file; it was said without the place that has to be emptied."""

    def full(job: int) -> NDArray[np.uint8]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left") as error:
        open_store(tmp_path / "store", SIZE, KEYS, range(10), full, label="test")
    assert error.value.filename == str(tmp_path / ".store.part")


def test_a_pickled_store_carries_no_pictures(tmp_path: Path) -> None:
    store = open_ten(tmp_path / "store", [])
    assert_whole(store)
    pickled = pickle.dumps(store)
    assert len(pickled) < 3 * SIZE * SIZE
    assert_whole(pickle.loads(pickled))


def test_pictures_are_mapped_read_only(tmp_path: Path) -> None:
    store = open_ten(tmp_path / "store", [])
    assert isinstance(store.pictures, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        store.pictures[0] = 1
