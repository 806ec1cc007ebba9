"""A picture on disk says what it is: a PNG with its prompt, seed, options and model ids in its text chunks."""

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from data.grid import from_pil
from training.errors import BadInput
from training.files import atomic

_NAME_BYTES = 60
"""Of the prompt in a file's name; the whole must be below the 255 that file systems take."""
_MAX_BYTES, _MAX_SIDE = 64 * 2**20, 4096
"""Largest PNG that is read: far above what any model here draws, far below what fills a memory."""


def file_name(index: int, prompt: str, seed: int, record: Mapping[str, Any]) -> str:
    """Readable, sortable, safe on any system, and of this record alone: `0000-a-noto-emoji-of-a-fox-0-8c1f0a3b.png`.

    Letters and digits of every script are kept.
    """
    words = groupby(unicodedata.normalize("NFC", prompt.lower()), lambda c: unicodedata.category(c)[0] in "LMN")
    slug = "-".join("".join(characters) for kept, characters in words if kept)
    short = slug.encode()[:_NAME_BYTES].decode(errors="ignore").strip("-")
    digest = hashlib.sha256(json.dumps(_texts(record), sort_keys=True).encode()).hexdigest()[:8]
    return "-".join([f"{index:04d}", *([short] if short else []), str(seed), f"{digest}.png"])


def write_picture(file: Path, picture: Image.Image, record: Mapping[str, Any]) -> None:
    """Writes a picture, whole or not at all, with `record` in its text chunks."""
    chunks = PngInfo()
    for key, text in _texts(record).items():
        chunks.add_itxt(key, text)
    with atomic(file) as temporary:
        picture.save(temporary, format="PNG", pnginfo=chunks)


def read_picture(file: Path, record: Mapping[str, Any]) -> Tensor | None:
    """The picture with this record, uint8 (3, H, W); None where there is none yet, or only a damaged one.

    Raises `BadInput` where `file` is anything else, which must not be replaced.
    """
    require_record(file, record)
    try:
        return read_png(file)
    except BadInput:  # there is none, or its pixels are damaged
        return None


def require_record(file: Path, record: Mapping[str, Any]) -> None:
    """Raises `BadInput` where `file` is there, but is no PNG with this record in the text chunks before its pixels."""
    if not file.is_symlink() and not file.exists():
        return
    try:
        if file.is_symlink():  # somebody else's file, which is not even looked at
            raise BadInput(f"{file}: is a link")
        with _opened(file) as image:
            found = {key: str(text) for key, text in image.info.items() if isinstance(text, str)}
    except BadInput:
        found = {}
    if found != _texts(record):
        raise BadInput(
            f"{file}: is there already and is not what would be written there; move it, or choose another --out"
        )


def read_png(file: Path) -> Tensor:
    """The pixels of a PNG, uint8 (3, H, W). Raises `BadInput` for anything else, and for one larger than ours are."""
    with _opened(file) as image:
        if max(image.size) > _MAX_SIDE:
            raise BadInput(f"{file}: {image.width}x{image.height} pixels; at most {_MAX_SIDE} a side are read")
        return from_pil(image.convert("RGB"))


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """A PNG whose pixels have not been decoded yet. Raises `BadInput` for anything else, also while they are."""
    try:
        if not file.is_file():
            raise BadInput(f"{file}: no such file")
        if file.stat().st_size > _MAX_BYTES:
            raise BadInput(f"{file}: {file.stat().st_size:,} bytes; at most {_MAX_BYTES:,} are read")
        with Image.open(file, formats=["PNG"]) as image:
            yield image
    except BadInput:
        raise
    except Exception as error:  # a decoder may raise anything on a damaged file
        raise BadInput(f"{file}: not a whole PNG ({error})") from None


def _texts(record: Mapping[str, Any]) -> dict[str, str]:
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in record.items()}
