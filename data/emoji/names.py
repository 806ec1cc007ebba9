"""Turns Unicode's names of emoji into plain English phrases, and phrases into captions."""

import re
from collections.abc import Sequence

from data.emoji.phrases import NO_ARTICLE, NOUN_PHRASES, PLACES, SIGNS, SYMBOLS, THINGS_WORN_OR_HELD, ZODIAC

_TONE = re.compile(r"[:,] ((?:medium-)?(?:light|medium|dark)) skin tone")
_CLOCK = re.compile(r"\w+( o'clock|-thirty)")
_KEYCAPS = {"#": "hash sign", "*": "asterisk"}
_PLURALS = {"man": "men", "woman": "women", "person": "people", "boy": "boys", "girl": "girls", "child": "children"}
_PLURALS |= {"adult": "adults"}

# Groups of people. Their names list the people and then the skin tones: "kiss: woman, man, light skin tone, ...".
_GROUPS = {
    "kiss": "a kiss between {}",
    "couple with heart": "a couple with a heart, {}",
    "family": "a family of {}",
    "people holding hands": "{} holding hands",
    "women holding hands": "{} holding hands",
    "men holding hands": "{} holding hands",
    "woman and man holding hands": "{} holding hands",
}
_COUPLES = {
    "women holding hands": ["woman", "woman"],
    "men holding hands": ["man", "man"],
    "woman and man holding hands": ["woman", "man"],
}


def prompt(name: str, style: str) -> str:
    """The caption to ask a model for an emoji: `prompt("fox", "noto")` is `"a noto emoji of a fox"`."""
    return f"{with_article(style_words(style))} emoji of {phrase(name)}"


def captions(name: str, style: str) -> tuple[str, ...]:
    """Five captions of the emoji with this CLDR name in this style; `prompt` comes first."""
    thing = phrase(name)
    bare = _bare(name)
    said = style_words(style)
    return (
        prompt(name, style),
        f"{with_article(said)} drawing of {thing}",
        f"{thing}, drawn in the {said} style",
        f"{bare}, {said} style",
        f"{said} emoji: {bare}",
    )


def colored_captions(name: str, style: str, colors: Sequence[str]) -> tuple[str, ...]:
    """Captions that name the main colors too: `"a noto emoji of a fox, orange and white"`; none without colors."""
    if not colors:
        return ()
    told = " and ".join(colors)
    return f"{prompt(name, style)}, {told}", f"{_bare(name)} in {told}, {style_words(style)} style"


def keyword_captions(name: str, style: str, words: Sequence[str]) -> tuple[str, ...]:
    """Captions with keywords: `"rocket (launch, space, travel), noto style"`; none without keywords."""
    if not words:
        return ()
    said = style_words(style)
    named = f"{_bare(name)} ({', '.join(words[:3])}), {said} style"
    return (named, f"{said} emoji: {', '.join(words[-3:])}") if len(words) >= 3 else (named,)


def _bare(name: str) -> str:
    return re.sub(r"^(a|an|the) ", "", phrase(name))


def style_words(style: str) -> str:
    """The name of a style as captions spell it: `"fluent flat"`."""
    return style.replace("-", " ")


def split_tones(name: str) -> tuple[str, tuple[str, ...]]:
    """Separates the skin tones from a name: `"man: dark skin tone, beard"` becomes `("man: beard", ("dark",))`.

    The rest is Unicode's name for the same emoji without a tone.
    """
    base = re.sub(r"^(kiss|couple with heart)[:,] person, person", r"\1", _TONE.sub("", name))
    return re.sub(r"^(man|woman|person), ", r"\1: ", base), tuple(_TONE.findall(name))


def phrase(name: str) -> str:
    """A noun phrase with its article: `"flag: Chad"` becomes `"the flag of Chad"`, `"fox"` becomes `"a fox"`."""
    name, tones = split_tones(name)
    name = name.replace("’", "'").replace("“", '"').replace("”", '"').replace("&", "and")
    kind, _, detail = name.partition(": ")
    if kind == "flag":
        return f"the flag of {_place(detail)}"
    if kind == "keycap":
        return f"a keycap with the {_KEYCAPS.get(detail, f'number {detail}')}"
    if kind in _GROUPS and name != "family":
        return _group(kind, detail, tones)
    if detail == "bald":
        return _toned(f"a bald {kind}", tones)
    if detail:  # "man: beard", "woman: red hair"
        return _toned(f"a {kind} with {'a beard' if detail == 'beard' else detail}", tones)
    if name.endswith(" facing right"):
        return f"{_toned(_noun_phrase(name.removesuffix(' facing right')), tones)}, facing right"
    return _toned(_noun_phrase(name), tones)


def _toned(said: str, tones: tuple[str, ...]) -> str:
    if not tones:
        return said
    joint = "and" if " with " in said else "with"
    return f"{said} {joint} {' and '.join(tones)} skin tone{'s' if len(tones) > 1 else ''}"


def _place(name: str) -> str:
    if name in PLACES:
        return PLACES[name]
    kind = name.split()[-1]
    takes_the = kind in {"Republic", "Emirates", "Netherlands", "Kingdom", "States", "Nations", "Union"}
    return f"the {name}" if takes_the or kind in {"Islands", "Territories", "Territory"} else name


def _group(kind: str, detail: str, tones: tuple[str, ...]) -> str:
    members = detail.split(", ") if detail else _COUPLES.get(kind, ["person", "person"])
    if len(tones) > 1:
        people = [_toned(f"a {member}", (tone,)) for member, tone in zip(members, tones, strict=True)]
    else:
        counts = {member: members.count(member) for member in members}
        people = [with_article(who) if n == 1 else f"two {_PLURALS[who]}" for who, n in counts.items()]
        people[-1] = _toned(people[-1], tones)
    *most, last = people
    return _GROUPS[kind].format(f"{', '.join(most)} and {last}" if most else last)


def _noun_phrase(name: str) -> str:
    if name in NOUN_PHRASES:
        return NOUN_PHRASES[name]
    if name in ZODIAC:
        return f"the zodiac sign {name}"
    if name in SIGNS:
        return f"{with_article(name)} sign"
    if name in SYMBOLS:
        return f"{with_article(name)} symbol"
    if _CLOCK.fullmatch(name):
        return f"a clock at {name}"
    inside = re.sub(
        rf"\b(with|without|wearing|in|behind|getting|taking|rowing|bouncing|tipping|raising|feeding)"
        rf" ({'|'.join(THINGS_WORN_OR_HELD)})(?![\w-])",
        lambda match: f"{match[1]} {with_article(match[2])}",
        name,
    )
    return inside if name in NO_ARTICLE or _is_plural(name) else with_article(inside)


def _is_plural(name: str) -> bool:
    first = re.split(r" (?:with|without|of|in|on|over|at|from|behind|holding|lifting|pointing|showing)\b", name)[0]
    return name.split()[0] in _PLURALS.values() or (first.endswith("s") and not first.endswith(("ss", "us", "is")))


def with_article(name: str) -> str:
    """The name with "a" or "an", by its sound. Covers what emoji need: a ewe, a unicorn, an hourglass, an SOS
    button."""
    vowel = re.match(r"[aeiou]|hour|x-|(ng|sos)\b", name, re.IGNORECASE)
    return f"an {name}" if vowel and not re.match(r"one\b|one-|uni|euro|ewe", name) else f"a {name}"
