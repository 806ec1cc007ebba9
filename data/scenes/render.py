"""Renders a scene."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.colors import HUES
from data.scenes.layout import Box
from data.scenes.scene import EIGHTHS, Scene
from data.scenes.sprites import Sprites, tinted
from data.scenes.vocabulary import BACKGROUNDS


def render(scene: Scene, boxes: list[Box], sprites: Sprites, size: int) -> NDArray[np.uint8]:
    """Renders a scene as uint8 (3, size, size). Below a scene that is lower than wide, the picture is white.

    `boxes` are those of `data.scenes.layout.layout`. Raises `data.store.Unreadable` if a drawing is damaged.
    """
    canvas = Image.new("RGB", (size, size * scene.eighths // EIGHTHS), BACKGROUNDS[scene.background])
    things = [group for group in scene.groups for _ in range(group.count)]
    for group, box in zip(things, boxes, strict=True):
        sprite = sprites.get(group.thing.codes, scene.style)
        scale = max(1.0, box.side * size) / max(sprite.size)
        wide, high = (max(1, round(side * scale)) for side in sprite.size)
        sprite = sprite.resize((wide, high), Image.Resampling.LANCZOS)
        if group.hue:
            sprite = tinted(sprite, HUES[group.hue])
        x, y = box.center
        canvas.paste(sprite, (round(x * size - wide / 2), round(y * size - high / 2)), sprite)
    square = Image.new("RGB", (size, size), "white")
    square.paste(canvas)
    return np.asarray(square).transpose(2, 0, 1)
