"""Assigns pictures to splits by hashes of their names, so that a split never changes."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath

TRAIN = "train"
VALIDATION = "validation"
VALIDATION_STYLE = "validation-style"
HELDOUT_STYLE = "heldout-style"
HELDOUT_CONCEPT = "heldout-concept"

# Splits by the names that people give to folders and files.
_NAMES = {TRAIN: TRAIN, "training": TRAIN, "test": "test", "testing": "test"}
_NAMES |= dict.fromkeys((VALIDATION, "val", "valid", "dev"), VALIDATION)


def fraction(text: str) -> float:
    """A fixed hash of `text`, uniform in [0, 1)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def picture_split(family: str, style: str, styles: tuple[str, ...]) -> str:
    """The split of a picture, from the name of its family, its style and all `styles`. Used for the original emoji
    styles.

    5 % of families are `heldout-concept` and 5 % `validation`, in all styles. In another 10 % of families, one style,
    chosen by hash, is never trained on; the other styles are. For half of those families, by another hash, that style
    is `validation-style`, to tune how a known concept looks in another style. For the other half it is `heldout-style`.
    """
    if whole := _whole(family):
        return whole
    if fraction(family) < 0.20 and style == styles[int(fraction(f"style of {family}") * len(styles))]:
        return VALIDATION_STYLE if fraction(f"tuned {family}") < 0.5 else HELDOUT_STYLE
    return TRAIN


def pair_split(family: str, style: str) -> str:
    """The split of a picture in a style that joined the corpus later. Styles that look alike must share one `style`
    name.

    Families that `picture_split` holds out in all styles are held out here too. Of the other pairs of family and style,
    5 % are `validation-style` and 5 % `heldout-style`, each pair by its own hash.
    """
    if whole := _whole(family):
        return whole
    place = fraction(f"{family} by {style}")
    return VALIDATION_STYLE if place < 0.05 else HELDOUT_STYLE if place < 0.10 else TRAIN


def _whole(family: str) -> str | None:
    place = fraction(family)
    return HELDOUT_CONCEPT if place < 0.05 else VALIDATION if place < 0.10 else None


def united(groups: Iterable[Iterable[str]]) -> Mapping[str, str]:
    """Merges groups that share a member, directly or through other groups. Maps each member to the smallest of its
    union."""
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


def split_from_name(name: str) -> str | None:
    """The split that a folder or file name stands for; None if it stands for none."""
    return _NAMES.get(name.lower())


def split_from_path(path: PurePath) -> str | None:
    """The split that the name of a file of many pictures begins with, as in `train-00000-of-00002.parquet`; else that
    of the nearest folder with the name of a split, as in `validation/0000.parquet`; None if there is none."""
    *folders, name = path.parts
    names = [re.split(r"[^a-zA-Z]", name)[0], *reversed(folders)]
    return next(filter(None, map(split_from_name, names)), None)


def assign_splits(keys: Sequence[str], stated: Sequence[str | None]) -> tuple[list[str], int]:
    """The splits of a user's pictures, from what the source states for each. Where it states nothing, `train`.

    If no picture is `validation`, 5 % of the `train` pictures, chosen by hash, become `validation`: at least one, but
    never the last `train` picture.

    Returns:
        The split of each picture, and how many pictures became `validation`.
    """
    splits = [TRAIN if name is None else split_from_name(name) or name for name in stated]
    if VALIDATION in splits:
        return splits, 0
    ordered = sorted((key for key, split in zip(keys, splits, strict=True) if split == TRAIN), key=fraction)
    share = sum(fraction(key) < 0.05 for key in ordered)
    validation = set(ordered[: max(0, min(max(share, 1), len(ordered) - 1))])
    splits = [VALIDATION if key in validation else split for key, split in zip(keys, splits, strict=True)]
    return splits, len(validation)
