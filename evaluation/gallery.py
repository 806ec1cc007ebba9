"""Real pictures to find made ones among: the emoji corpus, one picture for each family and style."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from data.captioned import CaptionedImages
from data.emoji import STYLES, Emoji, find
from data.splits import fraction
from evaluation.suites import Prompt


@dataclass(frozen=True, kw_only=True)
class RealGallery:
    """Pictures with what they show. See `evaluation.metrics.Gallery`."""

    pictures: Sequence[Tensor]
    concepts: Sequence[str]
    styles: Sequence[str]

    @property
    def groups(self) -> list[str]:
        """A family in one style: left out for the prompts that ask for it, whatever its skin tone."""
        return [group(concept, style) for concept, style in zip(self.concepts, self.styles, strict=True)]


def group(concept: str, style: str) -> str:
    """What is left out together."""
    return f"{concept}/{style}"


def group_of(key: str) -> str:
    """The group of a picture of the emoji corpus."""
    emoji = find(key)
    return group(emoji.family, emoji.style)


def emoji_gallery(pictures: CaptionedImages, prompts: Sequence[Prompt], size: int) -> RealGallery:
    """Enough families, in an order fixed by hash, for queries of `size`, and behind them those of the prompts.

    A family with skin tones or look-alikes is there once a style, by its first picture in Unicode's order, so every
    prompt has as many right answers as any other.
    """
    firsts: dict[str, dict[str, tuple[int, Emoji]]] = {}
    for i in range(len(pictures)):
        emoji = find(pictures.key(i))
        firsts.setdefault(emoji.family, {}).setdefault(emoji.style, (i, emoji))
    whole = [family for family, styles in firsts.items() if len(styles) == len(STYLES)]
    families = sorted(whole, key=lambda family: fraction(f"gallery {family}"))[: size // len(STYLES) + 2]
    families += sorted({prompt.concept for prompt in prompts} & set(firsts) - set(families))
    chosen = [entry for family in families for entry in firsts[family].values()]
    return RealGallery(
        pictures=[pictures[i] for i, _ in chosen],
        concepts=[emoji.family for _, emoji in chosen],
        styles=[emoji.style for _, emoji in chosen],
    )
