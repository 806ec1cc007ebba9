"""The gallery of real pictures for retrieval: from the emoji corpus, one picture for each family and style."""

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
    """Pictures, and the concept and style that each shows. See `evaluation.metrics.Gallery`."""

    pictures: Sequence[Tensor]
    concepts: Sequence[str]
    styles: Sequence[str]
    groups_by_digest: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Groups that known pictures, also outside the gallery, belong to, by the digest of their pixels."""

    @property
    def groups(self) -> list[str]:
        """The group of each picture: its family in its style. It is left out for the prompts that ask for it."""
        return [group(concept, style) for concept, style in zip(self.concepts, self.styles, strict=True)]


def group(concept: str, style: str) -> str:
    """The name of a group: pictures of one concept in one style, which are left out of a query together."""
    return f"{concept}/{style}"


def emoji_gallery(pictures: CaptionedImages, prompts: Sequence[Prompt], size: int) -> RealGallery:
    """A gallery of the emoji corpus: enough families for queries of `size`, in hash order, then those of the prompts.

    A family may have several pictures in a style, such as skin tones. The gallery has the first of them in Unicode's
    order, so that all prompts have equally many right answers.
    """
    firsts: dict[str, dict[str, tuple[int, Emoji]]] = {}
    for i in range(len(pictures)):
        emoji = find(pictures.key(i))
        firsts.setdefault(emoji.family, {}).setdefault(emoji.style, (i, emoji))
    whole = [family for family, styles in firsts.items() if len(styles) == len(ORIGINALS)]
    families = sorted(whole, key=lambda family: fraction(f"gallery {family}"))[: size // len(ORIGINALS) + 2]
    families += sorted({prompt.concept for prompt in prompts} & set(firsts) - set(families))
    chosen = [entry for family in families for entry in firsts[family].values()]
    groups: dict[str, set[str]] = defaultdict(set)
    for i, digest in enumerate(digests(pictures)):
        emoji = find(pictures.key(i))
        groups[digest].add(group(emoji.family, emoji.style))
    return RealGallery(
        pictures=[pictures[i] for i, _ in chosen],
        concepts=[emoji.family for _, emoji in chosen],
        styles=[emoji.style for _, emoji in chosen],
        groups_by_digest=groups,
    )
