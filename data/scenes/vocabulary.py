"""The vocabulary of scenes: things, backgrounds, sizes, counts and relations, by the words that captions use."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

RGB = tuple[int, int, int]

Relation = Literal["left of", "right of", "above", "below"]

OPPOSITE: Mapping[Relation, Relation] = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}

COUNTS = ("", "one", "two", "three", "four")
"""The words for the numbers 1 to 4."""

WHITE = "white"
BACKGROUNDS: Mapping[str, RGB] = {
    WHITE: (255, 255, 255),
    "light blue": (196, 226, 250),
    "light green": (204, 238, 200),
    "light yellow": (253, 243, 190),
    "light pink": (250, 212, 228),
    "dark blue": (22, 38, 88),
}
"""Colors of the background."""

SIZES: Mapping[str, tuple[float, float]] = {"small": (0.22, 0.30), "": (0.42, 0.56), "large": (0.72, 0.86)}
"""Smallest and largest longer side of a thing that is alone, in widths of the picture; "" if no size is named."""


@dataclass(frozen=True)
class Thing:
    """A concept whose emoji is one connected piece and differs from every background."""

    name: str
    """A noun: `"apple"`."""
    codes: str
    """The code point of its emoji, in hexadecimal."""
    tintable: bool = False
    """Whether most of it has one color in every style, so that it can be tinted."""
    plural: str = ""
    """The plural, if it is not the noun with an s."""

    def noun(self, count: int = 1) -> str:
        """The noun, in the plural if `count` is not 1."""
        return self.name if count == 1 else self.plural or f"{self.name}s"


THINGS = (
    Thing("monkey", "1f435"),
    Thing("dog", "1f415"),
    Thing("fox", "1f98a"),
    Thing("cat", "1f408"),
    Thing("lion", "1f981"),
    Thing("leopard", "1f406"),
    Thing("horse", "1f40e"),
    Thing("ox", "1f402", plural="oxen"),
    Thing("boar", "1f417"),
    Thing("camel", "1f42a"),
    Thing("giraffe", "1f992"),
    Thing("elephant", "1f418"),
    Thing("mammoth", "1f9a3"),
    Thing("chipmunk", "1f43f"),
    Thing("bear", "1f43b", tintable=True),
    Thing("otter", "1f9a6"),
    Thing("kangaroo", "1f998"),
    Thing("chick", "1f424", tintable=True),
    Thing("bird", "1f426"),
    Thing("parrot", "1f99c"),
    Thing("frog", "1f438", tintable=True),
    Thing("turtle", "1f422", tintable=True),
    Thing("lizard", "1f98e"),
    Thing("snake", "1f40d"),
    Thing("dinosaur", "1f996"),
    Thing("whale", "1f40b"),
    Thing("dolphin", "1f42c"),
    Thing("fish", "1f41f", plural="fish"),
    Thing("octopus", "1f419", tintable=True, plural="octopuses"),
    Thing("crab", "1f980", tintable=True),
    Thing("lobster", "1f99e"),
    Thing("snail", "1f40c", tintable=True),
    Thing("beetle", "1fab2"),
    Thing("ladybug", "1f41e"),
    Thing("bouquet", "1f490"),
    Thing("tree", "1f333"),
    Thing("cactus", "1f335", plural="cacti"),
    Thing("mushroom", "1f344"),
    Thing("bunch of grapes", "1f347", plural="bunches of grapes"),
    Thing("melon", "1f348"),
    Thing("tangerine", "1f34a"),
    Thing("pineapple", "1f34d"),
    Thing("apple", "1f34e", tintable=True),
    Thing("pear", "1f350", tintable=True),
    Thing("strawberry", "1f353", tintable=True, plural="strawberries"),
    Thing("tomato", "1f345", tintable=True, plural="tomatoes"),
    Thing("avocado", "1f951"),
    Thing("eggplant", "1f346", tintable=True),
    Thing("potato", "1f954", plural="potatoes"),
    Thing("carrot", "1f955"),
    Thing("chili pepper", "1f336"),
    Thing("croissant", "1f950"),
    Thing("pretzel", "1f968"),
    Thing("hamburger", "1f354"),
    Thing("slice of pizza", "1f355", plural="slices of pizza"),
    Thing("hot dog", "1f32d"),
    Thing("box of fries", "1f35f", plural="boxes of fries"),
    Thing("doughnut", "1f369"),
    Thing("cookie", "1f36a"),
    Thing("pie", "1f967"),
    Thing("globe", "1f30e"),
    Thing("church", "26ea", plural="churches"),
    Thing("car", "1f697", tintable=True),
    Thing("taxi", "1f696"),
    Thing("bus", "1f68d", plural="buses"),
    Thing("speedboat", "1f6a4"),
    Thing("canoe", "1f6f6"),
    Thing("rocket", "1f680"),
    Thing("helicopter", "1f681"),
    Thing("anchor", "2693"),
    Thing("clock", "1f550"),
    Thing("moon", "1f319", tintable=True),
    Thing("sun", "1f31e"),
    Thing("umbrella", "1f302", tintable=True),
    Thing("lightning bolt", "26a1"),
    Thing("flame", "1f525"),
    Thing("rainbow", "1f308"),
    Thing("drop", "1f4a7", tintable=True),
    Thing("tent", "26fa", tintable=True),
    Thing("pumpkin", "1f383", tintable=True),
    Thing("Christmas tree", "1f384"),
    Thing("bow", "1f380", tintable=True),
    Thing("gift", "1f381", tintable=True),
    Thing("trophy", "1f3c6", plural="trophies"),
    Thing("medal", "1f3c5"),
    Thing("basketball", "1f3c0"),
    Thing("palette", "1f3a8"),
    Thing("heart", "2665", tintable=True),
    Thing("diamond", "2666", tintable=True),
    Thing("teddy bear", "1f9f8", tintable=True),
    Thing("picture", "1f5bc"),
    Thing("pair of jeans", "1f456", plural="pairs of jeans"),
    Thing("dress", "1f457", tintable=True, plural="dresses"),
    Thing("handbag", "1f45c", tintable=True),
    Thing("backpack", "1f392", tintable=True),
    Thing("boot", "1f462", tintable=True),
    Thing("hat", "1f452", tintable=True),
    Thing("scarf", "1f9e3", tintable=True, plural="scarves"),
    Thing("bell", "1f514"),
    Thing("radio", "1f4fb"),
    Thing("saxophone", "1f3b7"),
    Thing("guitar", "1f3b8"),
    Thing("book", "1f4d5", tintable=True),
    Thing("money bag", "1f4b0"),
    Thing("box", "1f4e6", plural="boxes"),
    Thing("mailbox", "1f4ee", plural="mailboxes"),
    Thing("crayon", "1f58d"),
    Thing("padlock", "1f513", tintable=True),
    Thing("key", "1f511"),
    Thing("pill", "1f48a", tintable=True),
    Thing("door", "1f6aa", tintable=True),
    Thing("bed", "1f6cf"),
    Thing("chair", "1fa91", tintable=True),
    Thing("toolbox", "1f9f0", plural="toolboxes"),
    Thing("basket", "1f9fa"),
    Thing("ball of yarn", "1f9f6", plural="balls of yarn"),
    Thing("coin", "1fa99"),
    Thing("crystal ball", "1f52e"),
    Thing("gem", "1f48e"),
)
"""All things of which at least one style is in the training split."""

UNFIT = frozenset((
    "1f415/noto", "1f42a/emojione", "1f438/twemoji", "1f40b/noto", "1f40b/fluent-flat", "1f348/emojione",
    "1f336/emojione-v1", "26ea/firefox", "1f680/fluent-color", "1f680/fluent-3d", "1f680/emojione",
    "1f681/fluent-color", "1f681/fluent-3d", "26fa/firefox", "1f456/openmoji", "1f456/emojione-v1", "1f457/twemoji",
    "1f457/emojione", "1f452/firefox", "1f514/emojione", "1f6aa/emojione-v1", "1f48e/noto", "1f48e/noto-blob",
))  # fmt: skip
"""Drawings, by code point and style, that some background hides or splits into pieces at thumbnail size. `python -m
evaluation.find_unfit` lists them."""
