"""Writes files completely or not at all, locks folders, and checks paths that others chose."""

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
"""Name of the file that is locked while a command works in its folder."""
MARKER = ".tessera"
"""Name of the file that marks a folder as Tessera's and says what it is for."""
_OURS = re.compile(r"\.(.+)\.tessera-[0-9a-f]{16}\.(tmp|old)")


@contextmanager
def error_names(path: Path) -> Iterator[None]:
    """Adds `path` to an `OSError` from the block that names no file, as when a disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, to write a file or a folder to; then renames it to `path`.

    Until the block ends, `path` keeps what was there, and for good if the block raises. The new content reaches the
    disk before the rename, so a power cut leaves either the old or the new one. A symbolic link at `path` is replaced,
    not followed. A new file gets the mode of the file it replaces.

    A folder cannot replace a folder in one step, so the old one is first moved aside. If the process dies in between,
    the next call for `path`, or `remove_leftovers`, moves it back.

    Raises `BadInput` as `require_name` does.
    """
    require_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _exclusive(path.parent):
        _move_back(path)
    temporary = _sibling(path, "tmp")  # a random name: unique, and impossible to guess
    try:
        with error_names(path):
            yield temporary
            put(temporary, path)
    finally:
        remove(temporary)


def require_name(path: Path) -> None:
    """Raises `BadInput` for a path such as `.`, `..` or `/`, which another file or folder cannot be renamed to."""
    if path.name in ("", ".."):
        raise BadInput(f"{path}: is replaced as a whole, so the path must end in a name; choose another --out")


def put(new: Path, path: Path) -> None:
    """Renames `new`, a finished file or folder beside `path`, to `path`, replacing what is there (see `atomic`)."""
    if path.is_file() and not path.is_symlink():
        new.chmod(stat.S_IMODE(path.stat().st_mode))
    _fsync_all(new)
    with _exclusive(path.parent):
        if new.is_dir() and os.path.lexists(path):
            _exchange(path, new)
        else:
            new.replace(path)
        _fsync(path.parent)


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


def _move_back(path: Path) -> None:
    """Moves back what a process that died in `_exchange` had moved aside."""
    if os.path.lexists(path):
        return
    for aside in path.parent.glob(f"{glob.escape(f'.{path.name}.tessera-')}*.old"):
        aside.rename(path)
        return


def _fsync_all(path: Path) -> None:
    """Waits until a file, or a folder with everything in it, is on the disk."""
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for file in (Path(folder, name) for name in names):
                _fsync(file)
            _fsync(Path(folder))
    else:
        _fsync(path)


def _fsync(path: Path) -> None:
    """Waits until the bytes of a file, or the names in a folder, are on the disk. Does nothing on Windows, which has no
    such call for files open for reading."""
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
def _exclusive(folder: Path) -> Iterator[None]:
    """Lets one process or thread at a time rename files in `folder`. Leaves no lock file.

    Does nothing where folders cannot be locked, as on Windows and some network file systems. A race is unlikely there
    too.
    """
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
    """Locks a folder until the process ends or the returned lock is released.

    Raises:
        BadInput: another command works in it.
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
    """Creates a folder if needed, and locks it during the block. For files that belong together. Raises as `hold`
    does."""
    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = hold(folder)
    try:
        yield
    finally:
        with suppress(PermissionError):  # Windows cannot delete an open file; there the release deletes it
            remove(folder / LOCK)
        lock.release()
        if created:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def holds_files(folder: Path) -> bool:
    """Whether a folder holds anything but our lock."""
    return any(path.name != LOCK for path in folder.iterdir())


def claim(folder: Path, kind: str, *, replacing: str = "") -> None:
    """Marks `folder` as Tessera's, for contents of a `kind`; creates it if needed.

    Args:
        folder: the folder.
        kind: what it is for.
        replacing: pattern of the names that the caller writes, if it then replaces the folder as a whole.

    Raises:
        BadInput: it holds other files, or contents of another kind.
    """
    marker = folder / MARKER
    if marker.is_file():
        found = marker.read_text(encoding="utf-8", errors="replace").strip()
        if found != kind:
            raise BadInput(f"{folder}: is a folder for {found[:50]!r}, not for {kind!r}; choose another --out")
        for name in sorted(path.name for path in folder.iterdir()):
            if replacing and name not in (LOCK, MARKER) and not re.fullmatch(replacing, name):
                raise BadInput(f"{folder / name}: would be lost with the old folder; move it, or choose another --out")
        return
    if folder.is_dir() and holds_files(folder):
        raise BadInput(f"{folder}: holds files that Tessera did not write; choose another --out, or an empty folder")
    write_text(marker, kind + "\n")


def inside(folder: Path, name: str) -> Path:
    """The path of the file `name` below `folder`. `name` may come from an untrusted result, bundle or table.

    Raises:
        BadInput: it leads outside the folder, directly or through a link, or is not a regular file.
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
    """Writes `text` as UTF-8 with the line ends that it has, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def splice(path: Path, name: str, text: str) -> None:
    """Replaces the text between the lines `<!-- name -->` and `<!-- /name -->` of a file, atomically.

    Raises:
        BadInput: the two lines are not there once each, in this order; or `text` contains one of them.
    """
    before = path.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if before.count(begin) != 1 or before.count(end) != 1 or before.find(end) < before.find(begin):
        raise BadInput(f"{path}: must have {begin} once and then {end} once; the table goes between them")
    if begin in text or end in text:
        raise BadInput(f"{path}: the table must not contain {begin} or {end}, which mark its place")
    write_text(path, f"{before[: before.find(begin)]}{begin}\n{text}{before[before.find(end) :]}")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes `tensors` as safetensors, atomically. A full disk raises `OSError`, as with the other writers."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with atomic(path) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode
            save_file(contiguous, temporary, metadata={"format": "pt"})  # by a file that only its owner may read
            temporary.chmod(mode)
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
    """Opens the file `path`, created if needed, to add bytes at its end. They are on the disk when the block ends.

    Not atomic. It is for logs, whose readers ignore an incomplete last line, and for files in a folder that is itself
    still temporary.
    """
    with path.open("ab") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def reserve(path: Path, size: int) -> None:
    """Creates a file of `size` zero bytes. It takes up disk space only as it is written to."""
    with path.open("wb") as file, error_names(path):
        file.truncate(size)


@contextmanager
def placing(path: Path) -> Iterator[BinaryIO]:
    """Opens the existing file `path` for `write_at`. The caller keeps track of which parts are written.

    Several processes may have it open. A full disk raises `OSError`; with a memory map it would kill the process.
    """
    with path.open("r+b", buffering=0) as file:
        yield file


def write_at(file: BinaryIO, offset: int, data: bytes) -> None:
    """Writes all of `data` at byte `offset`."""
    file.seek(offset)
    left = memoryview(data)
    with error_names(Path(file.name)):
        while left:
            left = left[file.write(left) :]


def remove_leftovers(folder: Path) -> None:
    """Cleans up after processes that were killed inside `atomic`. Call it only when nobody else writes in `folder`.

    Temporary files are deleted. What was moved aside is moved back, unless its replacement is there.
    """
    for path in sorted(folder.glob(".*.tessera-*")):
        match = _OURS.fullmatch(path.name)
        if match and match[2] == "old" and not os.path.lexists(folder / match[1]):
            path.rename(folder / match[1])
        elif match:
            remove(path)


def remove(path: Path) -> None:
    """Deletes a file, a link or a whole folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
