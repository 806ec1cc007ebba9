"""The one reader of picture files: upright, RGB on white, whatever their format, depth and transparency.

What enters here is what everybody sees: training, inspection, scoring, references, pictures to start from and masks.
"""

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from data.store import Unreadable
from training.errors import BadInput

VERSION = 3
"""Raise it when `fit` is changed to make other pictures or to refuse others, so that kept ones are made again."""

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
"""Of files that are taken for pictures where nothing names them."""

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""What may be in them, whatever their names: other readers of Pillow's run programs, or were written for few."""

_SMALLEST = 8
"""Fewest pixels on a side, those of an image tokenizer's patch: what is smaller holds nothing to learn from."""

_LARGE = 2**24
"""Pixels from which on a picture is decoded alone: one takes some hundred MB, and there is a thread a core."""

_LARGEST = 2**28
"""Most pixels that are decoded, 268 million; a JPEG is reduced while it is, and may have 64 times as many."""

_alone = threading.Lock()

Image.MAX_IMAGE_PIXELS = None  # we look at the size ourselves, before decoding and after a JPEG's reduction

_ORIENTATION = 0x0112
_TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to set a picture upright, by its EXIF orientation."""


def fit(file: Path | bytes, size: int) -> NDArray[np.uint8]:
    """The picture in `file` as a square, uint8 (3, size, size). Raises `Unreadable`.

    It is turned as its EXIF orientation says, laid on white where it is transparent, then scaled by a Lanczos filter,
    up or down, until its short side is `size`, and cropped equally on both ends of the long one.
    """
    with _decoded(file, size) as image:
        return _channels_first(_square(_on_white(image), size))


def fit_mask(file: Path | bytes, size: int) -> NDArray[np.bool_]:
    """The mask in `file` as a square, bool (size, size), fitted as `fit` does: True where it is nearer to white than to
    black. Where no sample is greater than 1, as in what segmentation programs write, 1 is white. Raises `Unreadable`.
    """
    with _decoded(file, size) as image:
        samples = np.asarray(image if image.mode.startswith("I") else image.convert("L"))
        if 0 < samples.max() <= 1:
            grey = Image.fromarray(np.where(samples > 0, 255, 0).astype(np.uint8))
        else:
            grey = _on_white(image).convert("L")
        return np.asarray(_square(grey, size)) > 127


def whole(file: Path | bytes) -> NDArray[np.uint8]:
    """The picture in `file` at its own size, upright and on white, uint8 (3, H, W). Raises `Unreadable`."""
    with _decoded(file) as image:
        return _channels_first(_on_white(image))


def readable(read: Callable[..., NDArray[Any]], file: Path, *size: int) -> Tensor:
    """What one of the readers above makes of a file, as a tensor. Raises `BadInput` where it raises `Unreadable`."""
    try:
        return torch.from_numpy(read(file, *size).copy())
    except Unreadable as error:
        raise BadInput(f"{file}: cannot be read ({error})") from None


def original_size(file: Path | bytes) -> tuple[int, int]:
    """Width and height, upright, from the header alone. Raises `Unreadable`."""
    with _opened(file) as image:
        width, height = image.size
        return (height, width) if _orientation(image) >= 5 else (width, height)  # which lie on their side


@contextmanager
def _opened(file: Path | bytes) -> Iterator[Image.Image]:
    """The file with its header read. Whatever goes wrong in the block is `Unreadable`."""
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=_FORMATS) as image:
            yield image
    except Unreadable:
        raise
    except MemoryError:
        raise Unreadable("too large to be decoded in this machine's memory") from None
    except Exception as error:  # a decoder may raise anything on a damaged file
        raise Unreadable(_reason(error)) from error


@contextmanager
def _decoded(file: Path | bytes, size: int = 0) -> Iterator[Image.Image]:
    """The picture, decoded and upright, in its own mode; reduced on the way where it need be only `size` wide."""
    with _opened(file) as image:
        if min(image.size) < _SMALLEST:
            raise Unreadable(f"only {image.width}x{image.height} pixels; {_SMALLEST} on each side are the least")
        if size:
            image.draft(None, (2 * size, 2 * size))  # of formats that can: JPEG decodes to a half, a quarter, an eighth
        pixels = image.width * image.height
        if pixels > _LARGEST:
            raise Unreadable(f"{pixels / 1e6:.0f} million pixels; {_LARGEST / 1e6:.0f} million are the most")
        if pixels < _LARGE:
            yield _upright(image)
        else:
            with _alone:
                yield _upright(_reduced(image, size))


def _reduced(image: Image.Image, size: int) -> Image.Image:
    """A large picture by a whole factor, before anything copies it."""
    factor = min(image.size) // (2 * size) if size else 1
    return image.reduce(factor) if factor > 1 and image.mode in ("L", "RGB", "RGBA", "CMYK") else image


def _upright(image: Image.Image) -> Image.Image:
    turn = _TURNED.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """By EXIF, 1 to 8; 1, upright, where it does not say, or is damaged, as it is in many photographs."""
    try:
        said = image.getexif().get(_ORIENTATION)
    except Exception:
        return 1
    return said if isinstance(said, int) and said in _TURNED else 1


def _on_white(image: Image.Image) -> Image.Image:
    """RGB. Where a sample has 16 bits, or is a float from 0 to 1, it comes to the nearest of 256 steps."""
    key = image.info.get("transparency")
    if image.mode == "F" or image.mode.startswith("I"):
        image = _with_8_bits(image, key)
    elif image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:  # of 16 bits, as its samples were
        image.info["transparency"] = tuple(part >> 8 for part in key)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _with_8_bits(image: Image.Image, key: object) -> Image.Image:
    """A picture of one integer or float sample a pixel as 8-bit grey; the sample `key` is transparent."""
    samples = np.asarray(image)
    if not np.isfinite(samples).all():
        raise Unreadable("has samples that are no numbers")
    low, high = float(samples.min()), float(samples.max())
    most = 1 if image.mode == "F" and high <= 1 else 255 if image.mode == "F" else 65535
    if low < 0 or high > most:
        raise Unreadable(f"has samples from {low:g} to {high:g}; 0 to {most} can be read")
    grey = Image.fromarray((samples / (most / 255)).round().astype(np.uint8))
    if not isinstance(key, int):
        return grey
    return Image.merge("LA", (grey, Image.fromarray(np.where(samples == key, 0, 255).astype(np.uint8))))


def _square(image: Image.Image, size: int) -> Image.Image:
    return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)


def _channels_first(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image).transpose(2, 0, 1)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a picture"
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
