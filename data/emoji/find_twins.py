"""Measures which emoji are drawn alike and prints them, as the table in `data/emoji/twins.py` lists them.

    python -m data.emoji.find_twins

For whoever takes another version of an art package: the splits are only as pure as that table is right.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data.emoji.names import split_tones
from data.emoji.styles import ORIGINALS, SOURCE
from data.emoji.table import emojis
from data.source import open_source
from data.splits import united
from training.cli import command

_SIZE = 32


def look_alikes(pictures: Tensor, tolerance: float = 2) -> list[tuple[int, int]]:
    """Pairs i < j among uint8 (N, 3, size, size) that differ by less than `tolerance` of 255, root mean square."""
    flat = pictures.flatten(1).float()
    distances = torch.cdist(flat, flat) / flat.shape[1] ** 0.5
    return [(int(i), int(j)) for i, j in (distances < tolerance).triu(diagonal=1).nonzero()]


def find_twins(cache: Path | None) -> list[list[str]]:
    """Groups of concepts without skin tones, in Unicode's order, of which two pictures in one style look alike."""
    pictures = open_source(SOURCE, size=_SIZE, cache=cache)
    concepts = [split_tones(emoji.name)[0] for emoji in emojis()]
    pairs: list[tuple[str, str]] = []
    for offset in range(len(ORIGINALS)):  # each concept is in all styles, one after the other
        places = range(offset, len(pictures), len(ORIGINALS))
        alike = look_alikes(torch.stack([pictures[place] for place in places]))
        pairs += [(concepts[places[i]], concepts[places[j]]) for i, j in alike]
    union = united(pair for pair in pairs if pair[0] != pair[1])
    groups: dict[str, list[str]] = {}
    for concept in dict.fromkeys(concepts):
        if concept in union:
            groups.setdefault(union[concept], []).append(concept)
    return list(groups.values())


@dataclass(kw_only=True)
class FindTwinsOptions:
    """Measures which emoji are drawn alike and prints them."""

    cache: Path | None = None
    """Folder to keep drawn pictures in; by default the user's cache folder."""


def main(options: FindTwinsOptions) -> None:
    """Prints a row for each group."""
    for group in find_twins(options.cache):
        print(f"    {tuple(group)!r},")


if __name__ == "__main__":
    command(main, FindTwinsOptions)
