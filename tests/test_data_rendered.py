"""Pictures rendered once and kept in a store."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from data.rendered import PictureInfo, rendered
from data.store import Store, Unreadable

SIZE = 16
KEYS = [f"picture {i}" for i in range(10)]


def renderer(jobs: list[int], broken: tuple[int, ...] = ()) -> Callable[[int], NDArray[np.uint8]]:
    """A rendering function that adds each job to `jobs`."""

    def render(job: int) -> NDArray[np.uint8]:
        jobs.append(job)
        if job in broken:
            raise Unreadable("it is broken")
        return np.full((3, SIZE, SIZE), job, np.uint8)

    return render


def open_ten(folder: Path, jobs: list[int], broken: tuple[int, ...] = ()) -> Store[PictureInfo]:
    return rendered(folder, SIZE, KEYS, range(10), renderer(jobs, broken), label="test")


def assert_whole(store: Store[PictureInfo]) -> None:
    store.verify()
    assert [store.key(i) for i in range(len(store))] == KEYS
    pictures = store.array("pictures")
    assert pictures.shape == (10, 3, SIZE, SIZE) and pictures.dtype == np.uint8
    assert all((picture == i).all() for i, picture in enumerate(pictures))


def test_pictures_are_rendered_once(tmp_path: Path) -> None:
    jobs: list[int] = []
    assert_whole(open_ten(tmp_path / "store", jobs))
    assert_whole(open_ten(tmp_path / "store", jobs))
    assert sorted(jobs) == list(range(10))


def test_pictures_are_rendered_in_the_order_of_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures chosen by a hash were rendered in its order: row groups of parquet were decoded again and again."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    jobs: list[int] = []
    store = rendered(tmp_path / "store", SIZE, KEYS[:4], [7, 2, 9, 4], renderer(jobs), label="test")
    assert jobs == [2, 4, 7, 9]
    assert store.array("pictures")[:, 0, 0, 0].tolist() == [7, 2, 9, 4]


def test_unreadable_pictures_are_left_out_and_named(tmp_path: Path) -> None:
    for _ in range(2):
        store = open_ten(tmp_path / "store", [], broken=(3, 8))
        assert store.left_out == {"picture 3": "it is broken", "picture 8": "it is broken"}
        assert store.array("state").tolist() == [1, 1, 1, 2, 1, 1, 1, 1, 2, 1]
        assert int(store.array("pictures")[9, 0, 0, 0]) == 9


@pytest.mark.parametrize("name", ["pictures.bin", "store.json", "texts.jsonl"])
def test_a_damaged_store_is_rendered_again(tmp_path: Path, name: str) -> None:
    open_ten(tmp_path / "store", [])
    file = tmp_path / "store" / name
    file.write_bytes(file.read_bytes()[:-2])
    jobs: list[int] = []
    with pytest.warns(UserWarning, match=r"damaged|holds no store.* rendering them again"):
        store = open_ten(tmp_path / "store", jobs)
    assert_whole(store)
    assert sorted(jobs) == list(range(10))


def test_other_pictures_under_one_name_are_rendered_again(tmp_path: Path) -> None:
    open_ten(tmp_path / "store", [])
    with pytest.warns(UserWarning, match="holds other pictures"):
        store = rendered(tmp_path / "store", SIZE, KEYS[:4], range(4), renderer([]), label="test")
    assert len(store) == 4


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from data import rendered
rendered._AT_ONCE = 4
def render(job):
    if job == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return np.full((3, 16, 16), job, np.uint8)
rendered.rendered(Path(sys.argv[1]), 16, [f"picture {i}" for i in range(10)], range(10), render, label="killed")
"""


def test_a_killed_rendering_is_continued(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "store")], stderr=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "store").exists()
    jobs: list[int] = []
    assert_whole(open_ten(tmp_path / "store", jobs))
    assert {9} <= set(jobs) <= {8, 9}  # the eighth may have been rendered and not yet written


def test_two_threads_render_the_same_pictures_once(tmp_path: Path) -> None:
    jobs: list[int] = []
    together = [threading.Thread(target=open_ten, args=(tmp_path / "store", jobs)) for _ in range(4)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    assert sorted(jobs) == list(range(10))
