"""Lists, hashes and reads files of users."""

import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from training.errors import BadInput
from training.strict_json import read_bytes

_MAX_BYTES = 2**29

_AT_ONCE = 256
"""Files whose hashes are written to the cache together."""

_HIDDEN = "__MACOSX"
"""What macOS adds to archives, besides names that begin with a dot."""


def visible_files(folder: Path) -> Iterator[Path]:
    """Yields all files below `folder` in a fixed order, except hidden files and files in hidden folders.

    Links to folders are followed, but each folder is visited once: a second visit would be a cycle or a copy.
    """
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield from (Path(parent) / name for name in sorted(names) if not is_hidden(name))


def files_of(path: Path, suffix: str) -> tuple[Path, list[Path]]:
    """The folder that file names are relative to, and the files: `path` itself, or all files below it with this
    suffix."""
    if not path.is_dir():
        return path.parent, [path]
    return path, [file for file in visible_files(path) if file.suffix == suffix]


def is_hidden(name: str) -> bool:
    """Whether the name is hidden: `.DS_Store`, `._cat.jpg`, `.ipynb_checkpoints`, `__MACOSX`."""
    return name.startswith(".") or name == _HIDDEN


def content_hashes(files: Sequence[Path], cache: Path) -> list[str]:
    """A hash of each file's bytes; "" for a file that cannot be read.

    Hashes are cached in the folder `cache` by path, size, times and inode. Size and modification time are not enough:
    archives and synchronisers replace a file and set its time back.

    The cache is locked only while hashes are written to it, so other processes may hash large files at the same time.
    """
    cache.mkdir(parents=True, exist_ok=True)
    found: list[str] = []
    with closing(sqlite3.connect(cache / "contents.sqlite", timeout=60)) as memory:
        memory.execute("CREATE TABLE IF NOT EXISTS contents (state TEXT PRIMARY KEY, hash TEXT)")
        for first in range(0, len(files), _AT_ONCE):
            new: dict[str, str] = {}
            found += [_content_hash(file, memory, new) for file in files[first : first + _AT_ONCE]]
            with memory:
                memory.executemany("INSERT OR REPLACE INTO contents VALUES (?, ?)", new.items())
    return found


def _content_hash(file: Path, memory: sqlite3.Connection, new: dict[str, str]) -> str:
    """The hash of a file, from `memory` or computed and added to `new`; "" if the file cannot be read."""
    try:
        status = file.stat()
        state = f"{file.resolve()}|{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}|{status.st_ino}"
        known = memory.execute("SELECT hash FROM contents WHERE state = ?", (state,)).fetchone()
        if known is not None:
            return str(known[0])
        with file.open("rb") as content:
            new[state] = hashlib.file_digest(content, "blake2b").hexdigest()[:32]
        return new[state]
    except OSError:
        return ""


def text_lines(file: Path) -> list[str]:
    """The lines of a UTF-8 file, with or without a byte order mark and with any line ends. Empty lines are kept.

    Raises:
        BadInput: it is not UTF-8.
    """
    return utf8_text(file).replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")


def utf8_text(file: Path) -> str:
    """The text of a UTF-8 file, without its byte order mark. Raises `BadInput` if it is not UTF-8 or over 512 MiB."""
    data = read_bytes(file, _MAX_BYTES)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadInput(f"{file}, line {line}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
