"""Any picture file as a square: upright, RGB on white, reduced by its short side and cropped at the centre."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from data.store import Unreadable

VERSION = 2
"""Raise it when `fit` is changed to make other pictures or to refuse others, so that kept ones are made again."""

_SMALLEST = 8
"""Fewest pixels on a side, those of an image tokenizer's patch: what is smaller holds nothing to learn from."""


def fit(file: Path | bytes, size: int) -> NDArray[np.uint8]:
    """The picture in `file`, uint8 (3, size, size). Raises `Unreadable`.

    It is turned as its EXIF orientation says, laid on white where it is transparent, then scaled by a Lanczos filter,
    up or down, until its short side is `size`, and cropped equally on both ends of the long one.
    """
    try:
        with _open(file) as image:
            if min(image.size) < _SMALLEST:
                raise Unreadable(f"only {image.width}x{image.height} pixels; {_SMALLEST} on each side are the least")
            square = ImageOps.fit(_rgb(ImageOps.exif_transpose(image)), (size, size), Image.Resampling.LANCZOS)
    except Unreadable:
        raise
    except Exception as error:  # a decoder may raise anything on a damaged file
        raise Unreadable(_reason(error)) from error
    return np.asarray(square).transpose(2, 0, 1)


def original_size(file: Path | bytes) -> tuple[int, int]:
    """Width and height, upright, from the header alone. Raises `Unreadable`."""
    try:
        with _open(file) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5 to 8 lie on their side
    except Exception as error:
        raise Unreadable(_reason(error)) from error
    return (height, width) if turned else (width, height)


def _open(file: Path | bytes) -> Image.Image:
    return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion clips at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a picture"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
