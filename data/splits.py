"""Which split a family of pictures is in: a function of its name alone, so that it never changes."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

TRAIN = "train"
VALIDATION = "validation"
VALIDATION_STYLE = "validation-style"
HELDOUT_STYLE = "heldout-style"
HELDOUT_CONCEPT = "heldout-concept"

# Names that people give to folders and files
_NAMES = {TRAIN: TRAIN, "training": TRAIN, "test": "test", "testing": "test"}
_NAMES |= dict.fromkeys((VALIDATION, "val", "valid", "dev"), VALIDATION)


def fraction(text: str) -> float:
    """A fixed hash of `text`, evenly spread over [0, 1)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def picture_split(family: str, style: str, styles: tuple[str, ...]) -> str:
    """The split of a picture, given its family's name and which of `styles` it is drawn in.

    5 % of families are `heldout-concept` and 5 % `validation`, whole. Of another 10 % one style, chosen by hash, is
    never trained on; the other styles of those families are. In one half of these families, by another hash, it is
    `validation-style`, on which to tune how a known concept is drawn in another style; in the other, `heldout-style`.
    """
    if whole := _whole(family):
        return whole
    if fraction(family) < 0.20 and style == styles[int(fraction(f"style of {family}") * len(styles))]:
        return VALIDATION_STYLE if fraction(f"tuned {family}") < 0.5 else HELDOUT_STYLE
    return TRAIN


def pair_split(family: str, hand: str) -> str:
    """The split of a picture in a hand that joined the corpus later; `hand` is one name for all that draw alike.

    The families that `picture_split` sets aside whole are set aside here too. Of the other pairs of family and hand,
    5 % are `validation-style` and 5 % `heldout-style`, each by a hash of its own.
    """
    if whole := _whole(family):
        return whole
    place = fraction(f"{family} by {hand}")
    return VALIDATION_STYLE if place < 0.05 else HELDOUT_STYLE if place < 0.10 else TRAIN


def _whole(family: str) -> str | None:
    place = fraction(family)
    return HELDOUT_CONCEPT if place < 0.05 else VALIDATION if place < 0.10 else None


def united(groups: Iterable[Iterable[str]]) -> Mapping[str, str]:
    """Unites groups that share a member, directly or through others; maps each member to the least of its union."""
    parent: dict[str, str] = {}

    def root(member: str) -> str:
        while (above := parent.setdefault(member, member)) != member:
            member = above
        return member

    for group in groups:
        first, *others = group
        for other in others:
            low, high = sorted((root(first), root(other)))
            parent[high] = low
    return {member: root(member) for member in parent}


def stated_by(name: str) -> str | None:
    """The split that a folder or a file of this name stands for, if it does."""
    return _NAMES.get(name.lower())


def stated_by_file(name: str) -> str | None:
    """The split that the name of a file with many pictures begins with, as in `train-00000-of-00002.parquet`."""
    return stated_by(re.split(r"[^a-zA-Z]", name)[0])


def settle(keys: Sequence[str], stated: Sequence[str | None]) -> tuple[list[str], int]:
    """The splits of a user's pictures, from what their source states of each; `train` where it states nothing.

    Where that leaves nothing to validate with, every twentieth `train` picture by hash becomes `validation`, and at
    least one does, if there are two. Returns how many did, too.
    """
    splits = [TRAIN if name is None else stated_by(name) or name for name in stated]
    if VALIDATION in splits:
        return splits, 0
    ordered = sorted((key for key, split in zip(keys, splits, strict=True) if split == TRAIN), key=fraction)
    share = sum(fraction(key) < 0.05 for key in ordered)
    validation = set(ordered[: max(0, min(max(share, 1), len(ordered) - 1))])
    splits = [VALIDATION if key in validation else split for key, split in zip(keys, splits, strict=True)]
    return splits, len(validation)
