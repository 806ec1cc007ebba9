"""Reads JSON from untrusted sources: limited in size and depth, plain values only.

Any problem raises `BadInput` with one line that begins with the file.
"""

import codecs
import json
import math
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from training.errors import BadInput

MAX_BYTES = 2**24
"""Default limit of a file: 16 MiB."""
MAX_NESTING = 64
"""Most lists and objects inside one another."""
MAX_DIGITS = 20
"""Most characters of an integer. Every 64-bit integer fits."""


def read_json(file: Path, max_bytes: int = MAX_BYTES, *, finite: bool = True) -> dict[str, Any]:
    """Reads a JSON object of at most `max_bytes` bytes.

    Args:
        file: the file.
        max_bytes: its largest size.
        finite: refuse NaN and infinity. A training log may contain them.

    Raises:
        BadInput: the file is missing, not a regular file, too large, not UTF-8 or not JSON; or its value is no object,
            is nested deeper than `MAX_NESTING`, repeats a key, or has a lone surrogate or too long an integer.
    """
    values = parse_json(read_bytes(file, max_bytes), str(file), finite=finite)
    if not isinstance(values, dict):
        raise BadInput(f"{file}: holds a {type(values).__name__}, not a JSON object")
    return values


def read_json_lines(file: Path, max_bytes: int = MAX_BYTES, *, finite: bool = True) -> Iterator[tuple[str, Any]]:
    """Yields (place, value) for each line that is not empty; the place is `"FILE, line 3"`. Raises as `read_json` does.

    Only line feeds end a line, because JSON strings may contain Unicode's other line ends.
    """
    content = read_bytes(file, max_bytes).removeprefix(codecs.BOM_UTF8)
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            where = f"{file}, line {number}"
            yield where, parse_json(line, where, finite=finite)


def parse_json(content: bytes | str, where: str, *, finite: bool = True) -> Any:
    """The JSON value in `content`. Messages begin with `where`, its source. Raises as `read_json` does."""
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
        raise BadInput(f"{where}: not valid JSON (nested more than {MAX_NESTING} deep)") from None
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
        raise ValueError(f"{first_repeated(name for name, _ in pairs)!r} appears twice in one object")
    return values


def first_repeated(names: Iterable[str]) -> str | None:
    """The first name that was there before; None if there is none. Time is linear, for files from strangers."""
    seen = set[str]()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(digits):,} digits, {digits[:10]}...")
    return int(digits)


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def require_plain(value: Any) -> None:
    """Raises `ValueError` if values are nested too deep, or text cannot be written as UTF-8."""
    level = [value]
    for _ in range(MAX_NESTING + 1):
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
    raise ValueError(f"nested more than {MAX_NESTING} deep")
