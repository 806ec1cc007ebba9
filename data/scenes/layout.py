"""Where each thing of a scene is: a function of the scene, a seed and its number. Nothing is rendered here."""

import random
from typing import NamedTuple

from data.scenes.scene import EIGHTHS, Scene
from data.scenes.vocabulary import SIZES, Relation

_SIDES = ((0.0, 0.0), (0.42, 0.56), (0.34, 0.44), (0.27, 0.36), (0.24, 0.33))
"""Smallest and largest side of a box, by the number of things. All lengths here are in widths of the picture."""
_GAP = 0.03
"""Least distance between boxes, and from a box to the edge of the picture."""


class Box(NamedTuple):
    """A square that a thing fills, as far as its shape allows. Lengths are in widths of the picture."""

    x: float
    """Position of the left edge."""
    y: float
    """Position of the upper edge."""
    side: float

    @property
    def center(self) -> tuple[float, float]:
        """x and y."""
        return self.x + self.side / 2, self.y + self.side / 2


def layout(scene: Scene, seed: int, number: int) -> list[Box]:
    """Chooses a box for each thing, group after group, so that no two touch and the scene's relation holds."""
    rng = random.Random(f"layout {number} of {seed}")
    counts = [group.count for group in scene.groups]
    height = scene.eighths / EIGHTHS
    least, most = SIZES[scene.groups[0].size] if scene.groups[0].size else _SIDES[sum(counts)]
    attempt = 0
    while True:
        shrunk = 0.97 ** (attempt // 8)  # if boxes often do not fit, try smaller ones
        boxes: list[Box] = []
        for count in counts:
            side = shrunk * (least + (most - least) * rng.random())
            boxes += [_box(min(side, height * 0.9), height, rng) for _ in range(count)]
        apart = all(_apart(a, b) for i, a in enumerate(boxes) for b in boxes[:i])
        if apart and (scene.relation is None or holds(scene.relation, boxes[0], boxes[1])):
            return boxes
        attempt += 1


def holds(relation: Relation, one: Box, other: Box) -> bool:
    """Whether `one` is, for example, left of `other`: fully on that side, and 1.5 times as far as across it."""
    (x, y), (other_x, other_y) = one.center, other.center
    across, down = x - other_x, y - other_y
    if relation in ("left of", "right of"):
        along, beside = (-across if relation == "left of" else across), abs(down)
    else:
        along, beside = (-down if relation == "above" else down), abs(across)
    return along >= (one.side + other.side) / 2 and along > 1.5 * beside


def _box(side: float, height: float, rng: random.Random) -> Box:
    """A box at a random place in the picture."""
    x, y = (_edge(side, room) + (room - side - 2 * _edge(side, room)) * rng.random() for room in (1.0, height))
    return Box(x, y, side)


def _edge(side: float, room: float) -> float:
    return min(_GAP, (room - side) / 2)


def _apart(one: Box, other: Box) -> bool:
    distance = (one.side + other.side) / 2 + _GAP
    return any(abs(a - b) >= distance for a, b in zip(one.center, other.center, strict=True))
