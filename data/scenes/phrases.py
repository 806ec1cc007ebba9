"""Captions of a scene."""

from data.emoji.names import style_words, with_article
from data.scenes.scene import EIGHTHS, Group, Scene
from data.scenes.vocabulary import COUNTS, OPPOSITE, WHITE


def captions(scene: Scene) -> tuple[str, ...]:
    """Describes the scene in several forms, long and short. The first one is the prompt.

    Some forms leave out the style, or name the second thing first. Every form names a background that is not white, and
    a height that is less than the width.
    """
    style = style_words(scene.style)
    things, swapped = _things(scene), _things(_reversed(scene))
    tail = "" if scene.background == WHITE else f" on {with_article(scene.background)} background"
    ratio = "" if scene.eighths == EIGHTHS else f", {EIGHTHS}:{scene.eighths}"
    forms = (
        f"{with_article(style)} drawing of {things}{tail}{ratio}",
        f"{things}{tail}, {style} style{ratio}",
        f"{things}{tail}, drawn in the {style} style{ratio}",
        f"{things}{tail}{ratio}",
        f"{with_article(style)} drawing of {swapped}{tail}{ratio}",
        f"{swapped}{tail}{ratio}",
    )
    return tuple(dict.fromkeys(forms))


def prompt(scene: Scene) -> str:
    """The caption that suites ask a model with: `"a noto drawing of three red apples"`."""
    return captions(scene)[0]


def _things(scene: Scene) -> str:
    return f" {scene.relation or 'and'} ".join(map(_group, scene.groups))


def _reversed(scene: Scene) -> Scene:
    """The same scene with its groups in reverse order."""
    relation = OPPOSITE[scene.relation] if scene.relation else None
    return Scene(groups=scene.groups[::-1], relation=relation, style=scene.style)


def _group(group: Group) -> str:
    words = " ".join(filter(None, (group.size, group.hue, group.thing.noun(group.count))))
    return with_article(words) if group.count == 1 else f"{COUNTS[group.count]} {words}"
