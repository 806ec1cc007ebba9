"""What a scene shows: a function of a seed and a number. Nothing is rendered here."""

import random
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, TypeVar

from data.colors import HUES
from data.scenes.vocabulary import BACKGROUNDS, OPPOSITE, SIZES, WHITE, Relation, Thing
from data.splits import TRAIN, VALIDATION, fraction

HELDOUT_COMBINATION = "heldout-combination"

Kind = Literal["single", "two objects", "counting", "colors", "position", "color attribution"]
"""What a scene tests: the six tasks of GenEval (arXiv 2310.11513, table 1)."""

_SHARES: Mapping[Kind, float] = {
    "single": 0.15, "two objects": 0.20, "counting": 0.20, "colors": 0.15, "position": 0.20, "color attribution": 0.10,
}  # fmt: skip

EIGHTHS = 8
"""Height of a full picture, in eighths of its width."""

Choice = TypeVar("Choice")


@dataclass(frozen=True, kw_only=True)
class Group:
    """One or more equal things."""

    thing: Thing
    count: int = 1
    """1 to 4."""
    hue: str | None = None
    """One of `HUES`; None keeps the colors of the art."""
    size: str = ""
    """One of `SIZES`; "" unless the thing is alone."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One or two groups on a canvas."""

    groups: tuple[Group, ...]
    style: str
    """One of `data.emoji.styles.STYLES`, for all things."""
    relation: Relation | None = None
    """Where the first group is, relative to the second."""
    background: str = WHITE
    """One of `BACKGROUNDS`."""
    eighths: int = EIGHTHS
    """Height of the picture in eighths of its width, 1 to 8."""

    @property
    def kind(self) -> Kind:
        """The task that the scene belongs to."""
        first = self.groups[0]
        if self.relation:
            return "position"
        if len(self.groups) == 2:
            return "color attribution" if first.hue else "two objects"
        return "counting" if first.count > 1 else "colors" if first.hue else "single"

    @property
    def split(self) -> str:
        """`train`, `validation` or `heldout-combination`, by the combinations in the scene.

        Combinations are pairs of things, things with a count above one, and things with a color. A hash reserves 5 % of
        all combinations for `heldout-combination` and 5 % for `validation`; no training scene contains these.
        """
        places = [fraction(f"scene with {combination}") for combination in self._combinations()]
        if any(place < 0.05 for place in places):
            return HELDOUT_COMBINATION
        return VALIDATION if any(place < 0.10 for place in places) else TRAIN

    def _combinations(self) -> Iterator[str]:
        yield from (f"{group.count} {group.thing.name}" for group in self.groups if group.count > 1)
        yield from (f"{group.hue} {group.thing.name}" for group in self.groups if group.hue)
        if len(self.groups) == 2:
            yield " and ".join(sorted(group.thing.name for group in self.groups))


def scene(seed: int, number: int, things: Mapping[str, Sequence[Thing]]) -> Scene:
    """Samples scene `number` of a seed. `things` are those to choose from, by style."""
    rng = random.Random(f"scene {number} of {seed}")  # only its method `random` gives the same in every Python version
    kind = _weighted(_SHARES, rng.random())
    style = _choose(list(things), rng)
    eighths = 1 + int(7 * rng.random()) if rng.random() < 0.1 else EIGHTHS
    background = WHITE if rng.random() < 0.5 else _choose(list(BACKGROUNDS), rng)
    first = _thing(things[style], rng, tintable=kind in ("colors", "color attribution"))
    hue = _choose(list(HUES), rng)
    groups: tuple[Group, ...]
    relation: Relation | None = None
    if kind in ("two objects", "position", "color attribution"):
        second = _thing(things[style], rng, tintable=kind == "color attribution", but=first)
        if kind == "color attribution":
            other = _choose([name for name in HUES if name != hue], rng)
            groups = Group(thing=first, hue=hue), Group(thing=second, hue=other)
        elif kind == "position":
            sides: list[Relation] = list(OPPOSITE)
            relation = _choose(sides if eighths > 4 else sides[:2], rng)  # a low picture has no room for two rows
            groups = Group(thing=first), Group(thing=second)
        else:
            counts = (1, 1), (1, 1), (1, 2), (2, 1), (2, 2)
            groups = tuple(Group(thing=thing, count=n)
                           for thing, n in zip((first, second), _choose(counts, rng), strict=True))  # fmt: skip
    elif kind == "counting":
        colored = first.tintable and rng.random() < 0.5
        groups = (Group(thing=first, count=2 + int(3 * rng.random()), hue=hue if colored else None),)
    else:
        size = _choose(("", "", *SIZES), rng)
        groups = (Group(thing=first, hue=hue if kind == "colors" else None, size=size),)
    return Scene(groups=groups, style=style, relation=relation, background=background, eighths=eighths)


def _thing(things: Sequence[Thing], rng: random.Random, tintable: bool, but: Thing | None = None) -> Thing:
    return _choose([thing for thing in things if thing is not but and (thing.tintable or not tintable)], rng)


def _choose(choices: Sequence[Choice], rng: random.Random) -> Choice:
    return choices[int(rng.random() * len(choices))]


def _weighted(shares: Mapping[Choice, float], place: float) -> Choice:
    """The choice whose part of [0, 1) contains `place`. The parts follow each other, as wide as their shares."""
    ends = list(accumulate(shares.values()))
    return list(shares)[min(bisect(ends, place), len(ends) - 1)]
