"""Where each thing of a scene stands: a function of a seed and a number. Nothing is rendered here."""

import random
from typing import NamedTuple

from data.scenes.scene import EIGHTHS, Scene
from data.scenes.vocabulary import SIZES, Relation

_SIDES = ((0.0, 0.0), (0.42, 0.56), (0.34, 0.44), (0.27, 0.36), (0.24, 0.33))
"""Least and most side of a box, by the number of things."""
_GAP = 0.03
"""Between boxes, and to the edge."""


class Box(NamedTuple):
    """A square in which a thing is as large as it can be; all in widths of the picture."""

    x: float
    """Of its left edge."""
    y: float
    """Of its upper edge."""
    side: float

    @property
    def center(self) -> tuple[float, float]:
        """x and y."""
        return self.x + self.side / 2, self.y + self.side / 2


def layout(scene: Scene, seed: int, number: int) -> list[Box]:
    """A box for each thing, group after group: none touches another, and relations hold."""
    chance = random.Random(f"layout {number} of {seed}")
    counts = [group.count for group in scene.groups]
    height = scene.eighths / EIGHTHS
    least, most = SIZES[scene.groups[0].size] if scene.groups[0].size else _SIDES[sum(counts)]
    attempt = 0
    while True:
        shrunk = 0.97 ** (attempt // 8)  # what does not fit by chance is tried smaller
        boxes: list[Box] = []
        for count in counts:
            side = shrunk * (least + (most - least) * chance.random())
            boxes += [_box(min(side, height * 0.9), height, chance) for _ in range(count)]
        apart = all(_apart(a, b) for i, a in enumerate(boxes) for b in boxes[:i])
        if apart and (scene.relation is None or holds(scene.relation, boxes[0], boxes[1])):
            return boxes
        attempt += 1


def holds(relation: Relation, one: Box, other: Box) -> bool:
    """Whether `one` is `relation` `other`: clear of it on that side, and more so than on any other."""
    (x, y), (other_x, other_y) = one.center, other.center
    across, down = x - other_x, y - other_y
    if relation in ("left of", "right of"):
        along, beside = (-across if relation == "left of" else across), abs(down)
    else:
        along, beside = (-down if relation == "above" else down), abs(across)
    return along >= (one.side + other.side) / 2 and along > 1.5 * beside


def _box(side: float, height: float, chance: random.Random) -> Box:
    """One that is in the picture, at any place."""
    x, y = (_edge(side, room) + (room - side - 2 * _edge(side, room)) * chance.random() for room in (1.0, height))
    return Box(x, y, side)


def _edge(side: float, room: float) -> float:
    return min(_GAP, (room - side) / 2)


def _apart(one: Box, other: Box) -> bool:
    distance = (one.side + other.side) / 2 + _GAP
    return any(abs(a - b) >= distance for a, b in zip(one.center, other.center, strict=True))
