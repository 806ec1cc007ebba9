"""How a scene is said."""

from data.emoji.names import style_words, with_article
from data.scenes.scene import EIGHTHS, Group, Scene
from data.scenes.vocabulary import COUNTS, OPPOSITE, WHITE


def captions(scene: Scene) -> tuple[str, ...]:
    """The scene in several forms, long and short; the first one is how to ask a model for it.

    What a caption leaves out, a style or which of two things is named first, may be anything; a background that is not
    white and a height that is not the width are in every form.
    """
    style = style_words(scene.style)
    things, turned = _things(scene), _things(_turned(scene))
    tail = "" if scene.background == WHITE else f" on {with_article(scene.background)} background"
    ratio = "" if scene.eighths == EIGHTHS else f", {EIGHTHS}:{scene.eighths}"
    forms = (
        f"{with_article(style)} drawing of {things}{tail}{ratio}",
        f"{things}{tail}, {style} style{ratio}",
        f"{things}{tail}, drawn in the {style} style{ratio}",
        f"{things}{tail}{ratio}",
        f"{with_article(style)} drawing of {turned}{tail}{ratio}",
        f"{turned}{tail}{ratio}",
    )
    return tuple(dict.fromkeys(forms))


def prompt(scene: Scene) -> str:
    """The caption to ask a model for the scene by: `"a noto drawing of three red apples"`."""
    return captions(scene)[0]


def _things(scene: Scene) -> str:
    return f" {scene.relation or 'and'} ".join(map(_group, scene.groups))


def _turned(scene: Scene) -> Scene:
    """The same scene told from its other end."""
    relation = OPPOSITE[scene.relation] if scene.relation else None
    return Scene(groups=scene.groups[::-1], relation=relation, style=scene.style)


def _group(group: Group) -> str:
    words = " ".join(filter(None, (group.size, group.hue, group.thing.said(group.count))))
    return with_article(words) if group.count == 1 else f"{COUNTS[group.count]} {words}"
