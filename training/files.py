"""Writing files whole or not at all."""

import errno
import glob
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from training.errors import BadInput

LOCK = ".lock"
"""File that is locked while a command is at work in its folder."""
MARKER = ".tessera"
"""File that says of a folder that it is ours, and what it is for."""
_OURS = re.compile(r"\.(.+)\.tessera-[0-9a-f]{16}\.(tmp|old)")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names `path` in an `OSError` that names no file: the one of a full disk comes from writing, not from opening."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary sibling of `path`, a file or a folder to be; renames it to `path` when the block succeeds.

    Whatever stood at `path` stays until then, and stays for good when the block raises. What was written has reached
    the disk before it gets its name, so a power cut leaves the old or the new. A link at `path` is replaced, not
    followed. A file has the mode of the one that it replaces. A folder in place of an older folder moves the older one
    aside first, so that the name never holds a mixture; where a process dies just then, the next call for `path`, or
    `remove_leftovers`, puts it back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path.parent):
        _put_back(path)
    temporary = _sibling(path, "tmp")  # of a name that nobody else can have, nor foresee
    try:
        with naming(path):
            yield temporary
            put(temporary, path)
    finally:
        remove(temporary)


def put(new: Path, path: Path) -> None:
    """Gives `new`, a finished file or folder beside `path`, that name, in place of what stands there (see `atomic`)."""
    if path.is_file() and not path.is_symlink():
        new.chmod(stat.S_IMODE(path.stat().st_mode))
    _sync(new)
    with _alone(path.parent):
        if new.is_dir() and os.path.lexists(path):
            _exchange(path, new)
        else:
            new.replace(path)
        _reach_the_disk(path.parent)


def _sibling(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.tessera-{secrets.token_hex(8)}.{kind}")


def _exchange(path: Path, newer: Path) -> None:
    aside = _sibling(path, "old")
    path.rename(aside)
    try:
        newer.rename(path)
    except OSError:
        aside.rename(path)
        raise
    remove(aside)


def _put_back(path: Path) -> None:
    """What a process that died in `_exchange` moved aside."""
    if os.path.lexists(path):
        return
    for aside in path.parent.glob(f"{glob.escape(f'.{path.name}.tessera-')}*.old"):
        aside.rename(path)
        return


def _sync(path: Path) -> None:
    """Has a file, or a folder with all that is in it, written to the disk."""
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for file in (Path(folder, name) for name in names):
                _reach_the_disk(file)
            _reach_the_disk(Path(folder))
    else:
        _reach_the_disk(path)


def _reach_the_disk(path: Path) -> None:
    """The bytes of a file, or the names in a folder. Windows has no such call for what is open for reading."""
    if os.name == "nt" or path.is_symlink() or not (path.is_file() or path.is_dir()):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot do it for folders
            raise
    finally:
        os.close(descriptor)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Among all processes and threads that rename in `folder`; no file is left behind. Where folders cannot be locked,
    as on Windows and some network file systems, a race is as unlikely as it was."""
    descriptor = None
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        if fcntl is not None and descriptor is not None:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def hold(folder: Path) -> FileLock:
    """Locks a folder until this process ends, however it ends, or releases what is returned.

    Raises `BadInput` when another command of ours is at work there.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BadInput(
            f"{folder}: another command is at work in this folder; wait for it, stop it or choose another --out"
        ) from None
    return lock


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Creates a folder and locks it during the block, for files that belong together. Raises as `hold` does."""
    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = hold(folder)
    try:
        yield
    finally:
        remove(folder / LOCK)
        lock.release()
        if created:
            with suppress(OSError):  # there is something in it
                folder.rmdir()


def holds_files(folder: Path) -> bool:
    """Whether there is anything in a folder but our lock."""
    return any(path.name != LOCK for path in folder.iterdir())


def claim(folder: Path, kind: str) -> None:
    """Makes `folder` one of ours, for a `kind` of contents, creating it where it is not there.

    Raises:
        BadInput: it holds anything that is not ours, or ours of another kind.
    """
    marker = folder / MARKER
    if marker.is_file():
        found = marker.read_text(encoding="utf-8", errors="replace").strip()
        if found != kind:
            raise BadInput(f"{folder}: is a folder for {found[:50]!r}, not for {kind!r}; choose another --out")
        return
    if folder.is_dir() and holds_files(folder):
        raise BadInput(f"{folder}: holds files that are not of Tessera; choose another --out, or an empty folder")
    write_text(marker, kind + "\n")


def inside(folder: Path, name: str) -> Path:
    """The file `name` below `folder`, where somebody else may have written the name: in a result, a bundle, metadata.

    Raises:
        BadInput: it leads outside the folder, by itself or through a link, or no regular file is there.
    """
    shown, pure = f"{folder}: names the file {name[:200]!r}", PurePosixPath(name)
    if not name or "\0" in name or "\\" in name or pure.is_absolute() or ".." in pure.parts:
        raise BadInput(f"{shown}: must be a relative path inside the folder")
    try:
        path = (folder / name).resolve(strict=True)
    except (OSError, RuntimeError):
        raise BadInput(f"{shown}, but there is none") from None
    if not path.is_relative_to(folder.resolve()):
        raise BadInput(f"{shown}, which is a link to somewhere outside of it")
    if not path.is_file():
        raise BadInput(f"{shown}, which is not a regular file")
    return path


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def splice(path: Path, name: str, text: str) -> None:
    """Replaces what stands in a file between the lines `<!-- name -->` and `<!-- /name -->`, atomically.

    Raises `BadInput` when they are not there, once each and in this order, or when one of them is in `text`.
    """
    before = path.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if before.count(begin) != 1 or before.count(end) != 1 or before.find(end) < before.find(begin):
        raise BadInput(f"{path}: must have {begin} once, followed by {end} once, between which the table belongs")
    if begin in text or end in text:
        raise BadInput(f"{path}: the table must not hold {begin} or {end} itself, or the next one would be put amiss")
    write_text(path, f"{before[: before.find(begin)]}{begin}\n{text}{before[before.find(end) :]}")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes `tensors` as safetensors, atomically. A full disk is an `OSError`, as everywhere else."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with atomic(path) as temporary:
            save_file(contiguous, temporary, metadata={"format": "pt"})
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data`, atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def copy(file: Path, to: Path) -> None:
    """Copies the bytes of a file, atomically."""
    with atomic(to) as temporary:
        shutil.copyfile(file, temporary)


@contextmanager
def appending(path: Path) -> Iterator[BinaryIO]:
    """The file `path`, created where it is not there, opened to add bytes at its end; on the disk when the block ends.

    Not atomic: for logs and journals, whose readers do without a last line cut short, and for files in a folder that
    is not there yet.
    """
    with path.open("ab") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def reserve(path: Path, size: int) -> None:
    """Creates a file of `size` zeros, which takes room on the disk as it is written to."""
    with path.open("wb") as file, naming(path):
        file.truncate(size)


@contextmanager
def placing(path: Path) -> Iterator[BinaryIO]:
    """The file `path`, opened to write at places in it by `write_at`, for parts that a state of their own counts.

    Several processes may have it open. A full disk is an `OSError`, which it is not through a memory map: there it ends
    the process.
    """
    with path.open("r+b", buffering=0) as file:
        yield file


def write_at(file: BinaryIO, place: int, data: bytes) -> None:
    """Writes all of `data` from byte `place` on."""
    file.seek(place)
    left = memoryview(data)
    with naming(Path(file.name)):
        while left:
            left = left[file.write(left) :]


def remove_leftovers(folder: Path) -> None:
    """Removes what a process killed inside `atomic` left in `folder`; call it where no other process can be writing.

    What was moved aside for something that then did not come is put back.
    """
    for path in sorted(folder.glob(".*.tessera-*")):
        match = _OURS.fullmatch(path.name)
        if match and match[2] == "old" and not os.path.lexists(folder / match[1]):
            path.rename(folder / match[1])
        elif match:
            remove(path)


def remove(path: Path) -> None:
    """Removes a file, a link or a whole folder; nothing where nothing is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
