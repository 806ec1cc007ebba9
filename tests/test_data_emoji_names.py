import re
from itertools import pairwise

import pytest

from data.emoji.names import captions, phrase, prompt, split_tones
from data.emoji.table import emojis

PHRASES = {
    "fox": "a fox",
    "elephant": "an elephant",
    "hourglass done": "an hourglass that is done",
    "unicorn": "a unicorn",
    "ewe": "a ewe",
    "one-piece swimsuit": "a one-piece swimsuit",
    "euro banknote": "a euro banknote",
    "SOS button": "an SOS button",
    "NEW button": "a NEW button",
    "x-ray": "an x-ray",
    "grapes": "grapes",
    "glasses": "glasses",
    "octopus": "an octopus",
    "tennis": "tennis",
    "nest with eggs": "a nest with eggs",
    "face holding back tears": "a face holding back tears",
    "sunrise over mountains": "a sunrise over mountains",
    "face with monocle": "a face with a monocle",
    "smiling face with heart-eyes": "a smiling face with heart-eyes",
    "women with bunny ears": "women with bunny ears",
    "twelve-thirty": "a clock at twelve-thirty",
    "no bicycles": "a no bicycles sign",
    "Leo": "the zodiac sign Leo",
    "woman’s boot": "a woman's boot",
    "Japanese “here” button": 'a Japanese "here" button',
    "keycap: 7": "a keycap with the number 7",
    "keycap: #": "a keycap with the hash sign",
    "flag: France": "the flag of France",
    "flag: United Kingdom": "the flag of the United Kingdom",
    "flag: Trinidad & Tobago": "the flag of Trinidad and Tobago",
    "flag: Côte d’Ivoire": "the flag of Côte d'Ivoire",
    "flag: Hong Kong SAR China": "the flag of Hong Kong",
    "waving hand: dark skin tone": "a waving hand with dark skin tone",
    "person with crown: medium skin tone": "a person with a crown and medium skin tone",
    "man: medium-light skin tone, beard": "a man with a beard and medium-light skin tone",
    "woman: bald": "a bald woman",
    "woman: light skin tone, bald": "a bald woman with light skin tone",
    "man walking facing right: dark skin tone": "a man walking with dark skin tone, facing right",
    "handshake: light skin tone, dark skin tone": "a handshake with light and dark skin tones",
    "family": "a family",
    "family: man, man, girl, boy": "a family of two men, a girl and a boy",
    "family: adult, child, child": "a family of an adult and two children",
    "kiss": "a kiss between two people",
    "kiss: medium skin tone": "a kiss between two people with medium skin tone",
    "kiss: person, person, light skin tone, dark skin tone": (
        "a kiss between a person with light skin tone and a person with dark skin tone"
    ),
    "couple with heart: woman, man": "a couple with a heart, a woman and a man",
    "men holding hands: dark skin tone": "two men with dark skin tone holding hands",
    "woman and man holding hands: dark skin tone, light skin tone": (
        "a woman with dark skin tone and a man with light skin tone holding hands"
    ),
}


@pytest.mark.parametrize(("name", "said"), PHRASES.items())
def test_names_become_plain_english(name: str, said: str) -> None:
    assert phrase(name) == said


def test_prompt() -> None:
    assert prompt("fox", "noto") == "a noto emoji of a fox"
    assert prompt("flag: France", "openmoji") == "an openmoji emoji of the flag of France"


def test_captions_are_one_phrase_in_several_templates() -> None:
    assert captions("red apple", "twemoji") == (
        "a twemoji emoji of a red apple",
        "a twemoji drawing of a red apple",
        "a red apple, drawn in the twemoji style",
        "red apple, twemoji style",
        "twemoji emoji: red apple",
    )


def test_tones_are_separated_from_names() -> None:
    assert split_tones("man: dark skin tone, beard") == ("man: beard", ("dark",))
    assert split_tones("kiss: person, person, light skin tone, dark skin tone") == ("kiss", ("light", "dark"))
    assert split_tones("family: man, boy") == ("family: man, boy", ())


def test_every_name_without_its_tones_is_a_name() -> None:
    names = {emoji.name for emoji in emojis()}
    assert {split_tones(name)[0] for name in names} <= names


def test_all_captions_are_clean_and_name_one_picture() -> None:
    seen: set[str] = set()
    for emoji in emojis():
        assert emoji.captions[0] == prompt(emoji.name, emoji.style)
        assert len(set(emoji.captions)) == 5
        assert seen.isdisjoint(emoji.captions)
        seen.update(emoji.captions)
        for caption in emoji.captions:
            words = caption.split(" ")
            assert emoji.style in caption and caption == caption.strip()
            assert all(words) and not any(a == b for a, b in pairwise(words) if a in ("a", "an", "the", "skin"))
            assert not re.search(r"[’“”&:]", caption.removeprefix(f"{emoji.style} emoji:"))
            assert not re.search(r"\ba (?!ewe|euro|one-)[aeio]|\ban [bcdfgjkpqtvwz]|\b(a|an|the) (a|an|the)\b", caption)
