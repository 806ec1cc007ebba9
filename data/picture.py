"""Reads picture files of any format, depth and orientation, always as upright RGB on white.

All pictures enter here: for training, inspection, scoring, references, masks, and pictures to start from.
"""

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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
"""Increase it when `fit` changes what it returns or refuses, so that cached pictures are rendered again."""

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
"""Suffixes of picture files, where no table names the files."""

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""Formats that are read, whatever the suffix. Pillow's other readers run external programs or are rarely tested."""

_SMALLEST = 8
"""Fewest pixels per side: the patch of an image tokenizer. Smaller pictures hold nothing to learn."""

_LARGE = 2**24
"""Pictures with more pixels are decoded one at a time, also by several processes that `share` a lock. One takes some
hundred MB, and there is a thread per core."""

_LARGEST = 2**28
"""Most pixels to decode, 268 million. A JPEG is reduced while it is decoded and may have 64 times as many."""

_alone: AbstractContextManager[Any] = threading.Lock()

Image.MAX_IMAGE_PIXELS = None  # `_decoded` checks the size itself, after a JPEG's reduction

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
"""The operation that sets a picture upright, by its EXIF orientation."""


def share(alone: AbstractContextManager[Any]) -> None:
    """Decodes large pictures of this process under `alone`, a lock that it has in common with other processes."""
    global _alone
    _alone = alone


def fit(file: Path | bytes, size: int) -> NDArray[np.uint8]:
    """The picture in `file` as a square, uint8 (3, size, size). Raises `Unreadable`.

    It is set upright by its EXIF orientation and put on white where it is transparent. Then it is scaled with a Lanczos
    filter until its short side is `size`, and the long side is cropped equally at both ends.
    """
    with _decoded(file, size) as image:
        return _channels_first(_square(_on_white(image), size))


def fit_mask(file: Path | bytes, size: int) -> NDArray[np.bool_]:
    """The mask in `file` as a square, bool (size, size), scaled and cropped as in `fit`. Raises `Unreadable`.

    True where it is nearer to white than to black. If no sample is above 1, as in the output of segmentation programs,
    1 counts as white.
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


def cut_out(file: Path | bytes, size: int) -> Image.Image:
    """The picture in `file`, upright, with its transparency: RGBA, its long side `size`. Raises `Unreadable`."""
    with _decoded(file, size) as image:
        return ImageOps.contain(image.convert("RGBA"), (size, size), Image.Resampling.LANCZOS)


def readable(read: Callable[..., NDArray[Any]], file: Path, *size: int) -> Tensor:
    """Calls one of the functions above; returns a tensor. Raises `BadInput` for an unreadable file."""
    try:
        return torch.from_numpy(read(file, *size).copy())
    except Unreadable as error:
        raise BadInput(f"{file}: cannot be read ({error})") from None


def original_size(file: Path | bytes) -> tuple[int, int]:
    """Width and height when upright, from the header alone. Raises `Unreadable`."""
    with _opened(file) as image:
        width, height = image.size
        return (height, width) if _orientation(image) >= 5 else (width, height)  # 5 to 8 lie on their side


@contextmanager
def _opened(file: Path | bytes) -> Iterator[Image.Image]:
    """Opens the file and reads its header. Any error in the block becomes `Unreadable`."""
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
    """The picture, decoded and upright, in its own mode. It may be reduced first, if only `size` pixels are needed."""
    with _opened(file) as image:
        if min(image.size) < _SMALLEST:
            raise Unreadable(f"only {image.width}x{image.height} pixels; must have {_SMALLEST} or more on each side")
        if size:
            image.draft(None, (2 * size, 2 * size))  # lets a JPEG decode to a half, a quarter or an eighth
        pixels = image.width * image.height
        if pixels > _LARGEST:
            raise Unreadable(f"{pixels / 1e6:.0f} million pixels; must have at most {_LARGEST / 1e6:.0f} million")
        if pixels < _LARGE:
            yield _upright(image)
        else:
            with _alone:
                yield _upright(_reduced(image, size))


def _reduced(image: Image.Image, size: int) -> Image.Image:
    """A large picture reduced by a whole factor, before anything copies it."""
    factor = min(image.size) // (2 * size) if size else 1
    return image.reduce(factor) if factor > 1 and image.mode in ("L", "RGB", "RGBA", "CMYK") else image


def _upright(image: Image.Image) -> Image.Image:
    turn = _TURNED.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8. It is 1 (upright) if missing or damaged, as in many photographs."""
    try:
        said = image.getexif().get(_ORIENTATION)
    except Exception:
        return 1
    return said if isinstance(said, int) and said in _TURNED else 1


def _on_white(image: Image.Image) -> Image.Image:
    """The picture as RGB. Samples of 16 bits, or floats from 0 to 1, are rounded to 8 bits."""
    key = image.info.get("transparency")
    if image.mode == "F" or image.mode.startswith("I"):
        image = _with_8_bits(image, key)
    elif image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:  # 16 bits
        image.info["transparency"] = tuple(part >> 8 for part in key)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _with_8_bits(image: Image.Image, key: object) -> Image.Image:
    """A picture with one integer or float sample per pixel, as 8-bit grey. The sample `key` becomes transparent."""
    samples = np.asarray(image)
    if not np.isfinite(samples).all():
        raise Unreadable("has samples that are no numbers")
    low, high = float(samples.min()), float(samples.max())
    most = 1 if image.mode == "F" and high <= 1 else 255 if image.mode == "F" else 65535
    if low < 0 or high > most:
        raise Unreadable(f"has samples from {low:g} to {high:g}; must be from 0 to {most}")
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
