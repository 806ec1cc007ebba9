"""Measures the size, contrast and hashes of pictures, and caches them so that each picture is read only once."""

import hashlib
import multiprocessing
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from data.corpus import Corpus
from data.picture import share, whole
from data.store import Array, Store, Unreadable
from data.store_writer import Part, begin, finish
from training.errors import BadInput, needing, printable
from training.files import remove

VERSION = 1
"""Increase it whenever `measure` would return other values."""

HASH_BYTES = 16
_COLOURS = 8
"""Columns and rows of the grid of mean colours."""
_SMALL = 64
"""Width and height, in pixels, at which pictures are hashed, so that large ones are scaled down only once."""
_LARGEST_FILE = 2**30
"""Most bytes of a picture file. `data.parquet` reads row groups of up to twice as many."""
_AT_ONCE = 32
"""Pictures that a process measures before it reports them."""
_WORTH_A_PROCESS = 8 * _AT_ONCE
"""Fewest pictures for each process; for fewer, starting the process takes longer than measuring."""

Measures = Mapping[str, NDArray[Any]]
"""The measurements of one picture, by the names of the store's arrays."""


@dataclass(frozen=True, kw_only=True)
class MeasuresInfo:
    """Describes a store of measurements."""

    kind: ClassVar[str] = "measures"

    source: str
    """A hash of the pictures, their order and the version of the measurements."""

    @property
    def arrays(self) -> Mapping[str, Array]:
        """What `measure` returns for each picture."""
        return {
            "pixels": Array("uint8", (HASH_BYTES,)), "hash": Array("uint8", (HASH_BYTES,)),
            "colours": Array("uint8", (_COLOURS, _COLOURS, 3)), "size": Array("int32", (2,)),
            "contrast": Array("float32"),
        }  # fmt: skip


def measure(file: Path | bytes) -> Measures:
    """Measures a picture. Raises `Unreadable`.

    Returns:
        pixels: uint8 (16,), a hash that is equal where all pixels are.
        hash: uint8 (16,), a perceptual hash of 128 bits. They say for a grid of cells whether each is lighter than the
            cell to its left, and than the cell above it.
        colours: uint8 (8, 8, 3), mean colours of a grid of cells.
        size: int32 (2,), width and height in pixels.
        contrast: float32 (), standard deviation of the channel that varies most, from 0 to 128, at 64x64 pixels.
    """
    with needing("prepare"):
        from imagehash import dhash, dhash_vertical

    content = _content(file)
    pixels = np.ascontiguousarray(whole(content).transpose(1, 2, 0))
    height, width, _ = pixels.shape
    digest = hashlib.blake2b(f"{width}x{height}".encode(), digest_size=HASH_BYTES)
    digest.update(pixels.data)
    small = Image.fromarray(pixels).resize((_SMALL, _SMALL), Image.Resampling.LANCZOS, reducing_gap=3)
    bits = np.concatenate([dhash(small).hash.ravel(), dhash_vertical(small).hash.ravel()])
    colours = small.resize((_COLOURS, _COLOURS), Image.Resampling.BOX)
    return {
        "pixels": np.frombuffer(digest.digest(), np.uint8), "hash": np.packbits(bits), "colours": np.asarray(colours),
        "size": np.array([width, height], np.int32),
        "contrast": np.asarray(np.asarray(small).std((0, 1)).max(), np.float32),
    }  # fmt: skip


def measured(corpus: Corpus, cache: Path, processes: int) -> Store[MeasuresInfo]:
    """Measures the pictures of a corpus. Pictures that an earlier run measured, even a killed one, are not read again.

    Args:
        corpus: the pictures.
        cache: folder for the measurements.
        processes: most processes that read pictures.

    Returns:
        A store with one row for each key. Unreadable pictures are left out, with the reason.

    Raises:
        BadInput: the library of hashes is not installed.
    """
    with needing("prepare"):
        import imagehash
    state = repr((VERSION, imagehash.__version__, corpus.recipe, list(corpus.keys)))
    info = MeasuresInfo(source=hashlib.blake2b(state.encode(), digest_size=HASH_BYTES).hexdigest())
    folder = cache / f"measures-{info.source}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not _is_there(folder, info):
            remove(folder)  # a damaged one
            begin(folder, info, [(key, key, ()) for key in corpus.keys])
            with Part(folder, info) as part:
                _fill(part, corpus, processes)
            finish(folder, info)
    return Store(folder, MeasuresInfo)


def _content(file: Path | bytes) -> bytes:
    """The bytes of a picture file. Raises `Unreadable`."""
    if isinstance(file, Path):
        try:
            size = file.stat().st_size
            content = file.read_bytes() if size <= _LARGEST_FILE else b""
        except OSError as error:
            raise Unreadable(error.strerror or "cannot be read") from None
    else:
        content, size = file, len(file)
    if size > _LARGEST_FILE:
        raise Unreadable(f"a file of {size:,} bytes; {_LARGEST_FILE:,} are the most")
    return content


def _is_there(folder: Path, info: MeasuresInfo) -> bool:
    try:
        return Store(folder, MeasuresInfo).info == info
    except BadInput:  # missing or damaged
        return False


def _fill(part: Part[MeasuresInfo], corpus: Corpus, processes: int) -> None:
    missing = part.missing().tolist()
    count = len(corpus.keys)
    with tqdm(total=count, initial=count - len(missing), desc=f"measuring {printable(corpus.name)}",
              unit="picture", mininterval=1) as progress:  # fmt: skip
        for row, found in _measured(corpus, missing, processes):
            if isinstance(found, str):
                part.leave_out(row, found)
            else:
                part.write(row, **{name: value[None] for name, value in found.items()})
            progress.update()


def _measured(corpus: Corpus, rows: Sequence[int], processes: int) -> Iterator[tuple[int, Measures | str]]:
    """Yields each row with its measurements, or with the reason why there are none, in order."""
    workers = min(processes, len(rows) // _WORTH_A_PROCESS)
    start = partial(_start, multiprocessing.Lock()) if workers > 1 else None
    loader = DataLoader(
        _Measured(corpus), batch_size=_AT_ONCE, sampler=rows, num_workers=workers if workers > 1 else 0,
        collate_fn=list, worker_init_fn=start,
    )  # fmt: skip
    for batch in loader:
        yield from batch


class _Measured(Dataset[tuple[int, Measures | str]]):
    """Measures a picture when it is indexed."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus

    def __getitem__(self, row: int) -> tuple[int, Measures | str]:
        try:
            return row, measure(self._corpus.file(row))
        except Unreadable as error:
            return row, str(error)


def _start(alone: AbstractContextManager[bool], worker: int) -> None:
    """Prepares a worker: of all of them, one at a time decodes a large picture."""
    share(alone)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C also reaches the workers; each would print a traceback
