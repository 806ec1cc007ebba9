"""The one reader of JSON that somebody else may have written: bounded, and plain values alone.

Whatever is wrong is a `BadInput` of one line that begins with the file.
"""

import codecs
import json
import math
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from training.errors import BadInput

MAX_BYTES = 2**24
"""Of a file, where the caller does not say otherwise: 16 MiB."""
DEEPEST = 64
"""Lists and objects inside one another."""
LONGEST_INTEGER = 20
"""Characters: every 64-bit integer fits."""


def read_json(file: Path, max_bytes: int = MAX_BYTES, *, finite: bool = True) -> dict[str, Any]:
    """Reads a JSON object of at most `max_bytes` bytes.

    Args:
        finite: refuse NaN and infinite numbers, which a log of a training may have.

    Raises:
        BadInput: the file is missing, no regular file, too large, not UTF-8, not JSON, nested deeper than `DEEPEST`,
            holds a field twice, a longer integer than `LONGEST_INTEGER` or half of a surrogate pair, or is no object.
    """
    values = parse_json(read_bytes(file, max_bytes), str(file), finite=finite)
    if not isinstance(values, dict):
        raise BadInput(f"{file}: holds a {type(values).__name__}, not a JSON object")
    return values


def read_json_lines(file: Path, max_bytes: int = MAX_BYTES, *, finite: bool = True) -> Iterator[tuple[str, Any]]:
    """Each line of a file that is not empty, with its place, `"FILE, line 3"`; refuses as `read_json` does.

    They end at line feeds alone: JSON may have other line ends of Unicode inside its strings.
    """
    content = read_bytes(file, max_bytes).removeprefix(codecs.BOM_UTF8)
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            where = f"{file}, line {number}"
            yield where, parse_json(line, where, finite=finite)


def parse_json(content: bytes | str, where: str, *, finite: bool = True) -> Any:
    """The value that a text is; `where` it is from begins the message. Refuses as `read_json` does."""
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_finite if finite else float,
            parse_constant=_refuse_constant if finite else float,
        )
        require_plain(value)
    except UnicodeDecodeError as error:
        raise BadInput(f"{where}: not valid JSON (not UTF-8 text, byte {error.start})") from None
    except RecursionError:
        raise BadInput(f"{where}: not valid JSON (nested more than {DEEPEST} deep)") from None
    except ValueError as error:
        raise BadInput(f"{where}: not valid JSON ({error})") from None
    return value


def read_bytes(file: Path, max_bytes: int) -> bytes:
    """The content of a regular file of at most `max_bytes` bytes. Raises `BadInput` for anything else."""
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe or a device might never end
            raise BadInput(f"{file}: not a regular file")
        with file.open("rb") as opened:
            content = opened.read(max_bytes + 1)
    except FileNotFoundError:
        raise BadInput(f"{file}: no such file") from None
    except OSError as error:
        raise BadInput(f"{file}: cannot be read ({error.strerror})") from None
    if len(content) > max_bytes:
        raise BadInput(f"{file}: has {found.st_size:,} bytes: must be at most {max_bytes:,}")
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{max(names, key=names.count)!r} stands twice in one object")
    return values


def _integer(digits: str) -> int:
    if len(digits) > LONGEST_INTEGER:
        raise ValueError(f"an integer of {len(digits):,} digits, {digits[:10]}...")
    return int(digits)


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def require_plain(value: Any) -> None:
    """Raises `ValueError` for values that are nested too deep, and for text that could not be written again."""
    level = [value]
    for _ in range(DEEPEST + 1):
        for one in level:
            if isinstance(one, str) and not one.isascii():
                one.encode()  # a UnicodeEncodeError is a ValueError
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in ([*one.keys(), *one.values()] if isinstance(one, dict) else one)
        ]
        if not level:
            return
    raise ValueError(f"nested more than {DEEPEST} deep")
