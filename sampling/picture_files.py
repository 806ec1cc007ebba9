"""PNG files of drawn pictures, with prompt, seed, options and model ids as metadata in their text chunks."""

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
"""Bytes of the prompt that go into a file name. A whole name must stay below 255 bytes, the limit of file systems."""
_MOST_BYTES, _MOST_SIDE = 64 * 2**20, 4096
"""Largest PNG that is read: far larger than any model here draws, far smaller than would fill the memory."""


def file_name(index: int, prompt: str, seed: int, metadata: Mapping[str, Any]) -> str:
    """A file name with a hash of the metadata, such as `0000-a-noto-emoji-of-a-fox-0-8c1f0a3b.png`.

    It is sortable and valid on any system. Letters and digits of every script are kept.
    """
    words = groupby(unicodedata.normalize("NFC", prompt.lower()), lambda c: unicodedata.category(c)[0] in "LMN")
    slug = "-".join("".join(characters) for kept, characters in words if kept)
    short = slug.encode()[:_NAME_BYTES].decode(errors="ignore").strip("-")
    digest = hashlib.sha256(json.dumps(_texts(metadata), sort_keys=True).encode()).hexdigest()[:8]
    return "-".join([f"{index:04d}", *([short] if short else []), str(seed), f"{digest}.png"])


def write_picture(file: Path, picture: Image.Image, metadata: Mapping[str, Any]) -> None:
    """Write a picture atomically, with `metadata` in its text chunks."""
    chunks = PngInfo()
    for key, text in _texts(metadata).items():
        chunks.add_itxt(key, text)
    with atomic(file) as temporary:
        picture.save(temporary, format="PNG", pnginfo=chunks)


def read_picture(file: Path, metadata: Mapping[str, Any]) -> Tensor | None:
    """The picture with this metadata, uint8 (3, H, W); None if the file does not exist or its pixels are damaged.

    Raises `BadInput` if `file` is anything else, which must not be replaced.
    """
    require_replaceable(file, metadata)
    try:
        return read_png(file)
    except BadInput:  # missing, or its pixels are damaged
        return None


def require_replaceable(file: Path, metadata: Mapping[str, Any]) -> None:
    """Raise `BadInput` if `file` exists and is not a PNG with this metadata in the text chunks before its pixels."""
    if not file.is_symlink() and not file.exists():
        return
    try:
        if file.is_symlink():  # not written by us, so it is not opened
            raise BadInput(f"{file}: is a link")
        with _opened(file) as image:
            found = {key: str(text) for key, text in image.info.items() if isinstance(text, str)}
    except BadInput:
        found = {}
    if found != _texts(metadata):
        raise BadInput(
            f"{file}: is there already and is not what would be written there; move it, or choose another --out"
        )


def read_png(file: Path) -> Tensor:
    """The pixels of a PNG, uint8 (3, H, W). Raises `BadInput` for any other file, and for one that is too large."""
    with _opened(file) as image:
        if max(image.size) > _MOST_SIDE:
            raise BadInput(f"{file}: {image.width}x{image.height} pixels; at most {_MOST_SIDE} a side are read")
        return from_pil(image.convert("RGB"))


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """Open a PNG without decoding it. Raises `BadInput` for any other file, also when the pixels are decoded later."""
    try:
        if not file.is_file():
            raise BadInput(f"{file}: no such file")
        if file.stat().st_size > _MOST_BYTES:
            raise BadInput(f"{file}: {file.stat().st_size:,} bytes; at most {_MOST_BYTES:,} are read")
        with Image.open(file, formats=["PNG"]) as image:
            yield image
    except BadInput:
        raise
    except Exception as error:  # a decoder may raise anything on a damaged file
        raise BadInput(f"{file}: not a whole PNG ({error})") from None


def _texts(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
