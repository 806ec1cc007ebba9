"""A picture on disk says what it is: a PNG with its prompt, seed, options and model ids in its text chunks."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from data.grid import from_pil, to_pil
from training.files import atomic


def file_name(index: int, prompt: str, seed: int) -> str:
    """Readable, sortable and safe on any system."""
    return f"{index:04d}-{re.sub(r'[^a-z0-9]+', '-', prompt.lower())[:60].strip('-')}-{seed}.png"


def write_picture(file: Path, picture: Tensor, record: Mapping[str, Any]) -> None:
    """Writes uint8 (3, H, W), whole or not at all."""
    chunks = PngInfo()
    for key, text in _texts(record).items():
        chunks.add_itxt(key, text)
    with atomic(file) as temporary:
        to_pil(picture).save(temporary, format="PNG", pnginfo=chunks)


def read_picture(file: Path, record: Mapping[str, Any]) -> Tensor | None:
    """The picture, where `file` is one with exactly this record; else nothing."""
    try:
        with Image.open(file) as image:
            found = getattr(image, "text", {})
            picture = from_pil(image.convert("RGB"))
    except (FileNotFoundError, UnidentifiedImageError, OSError, SyntaxError):
        return None
    return picture if found == _texts(record) else None


def _texts(record: Mapping[str, Any]) -> dict[str, str]:
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in record.items()}
