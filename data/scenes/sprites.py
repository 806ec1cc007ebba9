"""Things cut out of emoji art, to paste on a canvas."""

from collections.abc import Mapping
from functools import cache

import numpy as np
from PIL import Image

from data.emoji.art import cut_out_emoji
from data.emoji.collection import Collection
from data.emoji.styles import ORIGINALS
from data.emoji.table import find
from data.scenes.vocabulary import RGB

_COLORFUL = 0.22
"""Least saturation of a pixel that is tinted, so that outlines, highlights and shadows stay gray."""


class Sprites:
    """Things by code point and style, each rendered once. A pickled copy renders them again."""

    def __init__(self, collections: Mapping[str, Collection], size: int) -> None:
        """`collections` are the styles that come from npm, by name. Art is rendered at `size` pixels."""
        self._collections, self._size = collections, size
        self.get = cache(self._get)
        """`_get`, cached."""

    def _get(self, codes: str, style: str) -> Image.Image:
        """A thing on a transparent background, RGBA, cropped to its visible pixels.

        Raises `data.store.Unreadable` if the drawing is damaged.
        """
        if style in ORIGINALS:
            image = cut_out_emoji(find(f"{codes}/{style}").codepoints, style, self._size)
        else:
            image = self._collections[style].cut_out(codes, self._size)
        return image.crop(image.getchannel("A").point(lambda alpha: 255 * (alpha > 32)).getbbox())

    def __reduce__(self) -> tuple[type["Sprites"], tuple[Mapping[str, Collection], int]]:
        return Sprites, (self._collections, self._size)


def tinted(image: Image.Image, color: RGB) -> Image.Image:
    """Recolors an RGBA image: its colorful pixels become shades of `color`, as light and dark as they were."""
    pixels = np.asarray(image).astype(np.float32)
    rgb, alpha = pixels[..., :3] / 255, pixels[..., 3:]
    high, low = rgb.max(-1, keepdims=True), rgb.min(-1, keepdims=True)
    colorful = (high - low) / np.maximum(high, 1e-6)
    light = rgb @ np.array([[0.299], [0.587], [0.114]], np.float32)
    seen = (colorful[..., 0] >= _COLORFUL) & (alpha[..., 0] > 128)
    median = float(np.median(light[seen])) if seen.any() else 0.5
    shade, goal = light / max(median, 0.05), np.array(color, np.float32) / 255
    # pixels darker than the median go towards black, lighter ones towards white
    dark = goal * np.minimum(shade, 1)
    new = dark + (1 - dark) * np.clip((shade - 1) / max(1 / max(median, 0.05) - 1, 0.2), 0, 0.6)
    share = np.clip((colorful - _COLORFUL / 2) / (_COLORFUL / 2), 0, 1)
    mixed = np.concatenate([255 * (rgb + share * (new - rgb)), alpha], -1)
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8), "RGBA")
