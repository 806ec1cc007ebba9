"""Suites from the three original styles of the emoji corpus: each prompt is the first caption of a real picture."""

from collections.abc import Iterator

from data.emoji import SOURCE, Emoji, emojis
from data.splits import TRAIN, fraction
from evaluation.suites.prompts import Prompt, Suite

_SAMPLE = 500

_FILLED = ("heart", "circle", "square")
_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "brown", "black")
_HANDS = ("waving hand", "raised hand", "thumbs up", "raised fist", "OK hand", "victory hand", "flexed biceps")
_TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
_DIRECTED = ("{} arrow", "backhand index pointing {}")
_COUNTED = {
    "star": 1, "droplet": 1, "musical note": 1, "crescent moon": 1,
    "two hearts": 2, "eyes": 2, "chopsticks": 2,
    "sparkles": 3, "sweat droplets": 3, "bubbles": 3,
}  # fmt: skip


def train_sample(name: str, part: int) -> Suite:
    """500 training pictures: number `part` of the blocks of 500, in hash order."""
    pictures = sorted((e for e in emojis() if e.split == TRAIN), key=lambda e: fraction(f"sample {e.key}"))
    return _suite(name, pictures[part * _SAMPLE : (part + 1) * _SAMPLE])


def whole_split(split: str) -> Suite:
    """All pictures of a split, as the suite `emoji/SPLIT`."""
    return _suite(f"emoji/{split}", [e for e in emojis() if e.split == split])


def attributes() -> Suite:
    """Prompts that name a colour, a skin tone, a direction or a count, which `evaluation.measure` can measure."""
    asked = dict(_attributes())
    return Suite(
        name="attributes", source=SOURCE, prompts=[_prompt(e, *asked[e.name]) for e in emojis() if e.name in asked]
    )


def _attributes() -> Iterator[tuple[str, tuple[str, str]]]:
    """The name of each emoji, and its attribute with the value that is expected."""
    for colour in _COLOURS:
        for thing in _FILLED:
            name = f"{colour} large square" if (colour, thing) == ("black", "square") else f"{colour} {thing}"
            yield name, ("colour", colour)
    for hand in _HANDS:
        for tone in _TONES:
            yield f"{hand}: {tone} skin tone", ("skin tone", tone)
    for pattern in _DIRECTED:
        for direction in ("left", "right", "up", "down"):
            yield pattern.format(direction), ("direction", direction)
    for name, count in _COUNTED.items():
        yield name, ("count", str(count))


def _suite(name: str, chosen: list[Emoji]) -> Suite:
    return Suite(name=name, source=SOURCE, prompts=[_prompt(emoji) for emoji in chosen])


def _prompt(emoji: Emoji, attribute: str = "", expected: str = "") -> Prompt:
    return Prompt(
        text=emoji.captions[0], category=attribute or emoji.category, key=emoji.key, concept=emoji.family,
        style=emoji.style, attribute=attribute, expected=expected,
    )  # fmt: skip
