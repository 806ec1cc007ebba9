"""Files that people give: which of a folder's count, and the lines of a text."""

import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from training.errors import BadInput
from training.strict_json import read_bytes

_MAX_BYTES = 2**29

_HIDDEN = "__MACOSX"
"""What macOS adds to archives, besides names that begin with a dot."""


def visible_files(folder: Path) -> Iterator[Path]:
    """Files below `folder` in a fixed order; hidden ones, and those in hidden folders, are passed over.

    Links to folders are followed, each folder once: a link to one that was seen before is a cycle, or a copy.
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
    """What files are named from, and the files: one alone, or those of a folder, at any depth, with this suffix."""
    if not path.is_dir():
        return path.parent, [path]
    return path, [file for file in visible_files(path) if file.suffix == suffix]


def is_hidden(name: str) -> bool:
    """Of a file or folder: `.DS_Store`, `._cat.jpg`, `.ipynb_checkpoints`, `__MACOSX`."""
    return name.startswith(".") or name == _HIDDEN


def content_hashes(files: Sequence[Path], cache: Path) -> list[str]:
    """A hash of each file's bytes; "" for one that cannot be read.

    Hashes are remembered in `cache`, under path, size, times and inode: names, sizes and modification times alone stay
    the same where a file is exchanged and its time is set back, as archives and synchronisers do.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(cache / "contents.sqlite", timeout=60)) as memory, memory:
        memory.execute("CREATE TABLE IF NOT EXISTS contents (state TEXT PRIMARY KEY, hash TEXT)")
        found = []
        for file in files:
            try:
                status = file.stat()
                state = f"{file.resolve()}|{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}|{status.st_ino}"
                known = memory.execute("SELECT hash FROM contents WHERE state = ?", (state,)).fetchone()
                if known is None:
                    with file.open("rb") as content:
                        known = (hashlib.file_digest(content, "blake2b").hexdigest()[:32],)
                    memory.execute("INSERT OR REPLACE INTO contents VALUES (?, ?)", (state, known[0]))
                found.append(str(known[0]))
            except OSError:
                found.append("")
    return found


def text_lines(file: Path) -> list[str]:
    """Lines of a UTF-8 text with or without a byte order mark, ended as on any system; empty ones stay, to be counted.

    Raises `BadInput` when it is not UTF-8.
    """
    return utf8_text(file).replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")


def utf8_text(file: Path) -> str:
    """A UTF-8 text without its byte order mark. Raises `BadInput` when it is not UTF-8, or over 512 MiB."""
    data = read_bytes(file, _MAX_BYTES)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadInput(f"{file}, line {line}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
