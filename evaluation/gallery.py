"""Real pictures to find made ones among: the emoji corpus, one picture for each family and style."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from data.captioned import CaptionedImages
from data.emoji import ORIGINALS, Emoji, find
from data.splits import fraction
from evaluation.features import digests
from evaluation.suites import Prompt


@dataclass(frozen=True, kw_only=True)
class RealGallery:
    """Pictures with what they show. See `evaluation.metrics.Gallery`."""

    pictures: Sequence[Tensor]
    concepts: Sequence[str]
    styles: Sequence[str]
    kin: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Groups that pictures outside the gallery belong to, by the digest of their pixels."""

    @property
    def groups(self) -> list[str]:
        """A family in one style: left out for the prompts that ask for it, whatever its skin tone."""
        return [group(concept, style) for concept, style in zip(self.concepts, self.styles, strict=True)]


def group(concept: str, style: str) -> str:
    """What is left out together."""
    return f"{concept}/{style}"


def emoji_gallery(pictures: CaptionedImages, prompts: Sequence[Prompt], size: int) -> RealGallery:
    """Enough families, in an order fixed by hash, for queries of `size`, and behind them those of the prompts.

    A family with skin tones or look-alikes is there once a style, by its first picture in Unicode's order, so every
    prompt has as many right answers as any other.
    """
    firsts: dict[str, dict[str, tuple[int, Emoji]]] = {}
    for i in range(len(pictures)):
        emoji = find(pictures.key(i))
        firsts.setdefault(emoji.family, {}).setdefault(emoji.style, (i, emoji))
    whole = [family for family, styles in firsts.items() if len(styles) == len(ORIGINALS)]
    families = sorted(whole, key=lambda family: fraction(f"gallery {family}"))[: size // len(ORIGINALS) + 2]
    families += sorted({prompt.concept for prompt in prompts} & set(firsts) - set(families))
    chosen = [entry for family in families for entry in firsts[family].values()]
    kin: dict[str, set[str]] = defaultdict(set)
    for i, digest in enumerate(digests(pictures)):
        emoji = find(pictures.key(i))
        kin[digest].add(group(emoji.family, emoji.style))
    return RealGallery(
        pictures=[pictures[i] for i, _ in chosen],
        concepts=[emoji.family for _, emoji in chosen],
        styles=[emoji.style for _, emoji in chosen],
        kin=kin,
    )
