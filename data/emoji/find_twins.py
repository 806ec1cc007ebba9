"""Finds emoji that look alike, and prints them as the table in `data/emoji/twins.py`.

    python -m data.emoji.find_twins

Run it when a version of an art package changes: splits leak if the table misses a pair.
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
    """Pairs (i, j), i < j, of uint8 (N, 3, size, size) whose root-mean-square difference is below `tolerance` (of
    255)."""
    flat = pictures.flatten(1).float()
    distances = torch.cdist(flat, flat) / flat.shape[1] ** 0.5
    return [(int(i), int(j)) for i, j in (distances < tolerance).triu(diagonal=1).nonzero()]


def find_twins(cache: Path | None) -> list[list[str]]:
    """Groups of concepts, without skin tones and in Unicode's order, that look alike in at least one style."""
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
    """Finds emoji that look alike and prints them."""

    cache: Path | None = None
    """Folder for prepared pictures; by default the user's cache folder."""


def main(options: FindTwinsOptions) -> None:
    """Prints one row for each group."""
    for group in find_twins(options.cache):
        print(f"    {tuple(group)!r},")


if __name__ == "__main__":
    command(main, FindTwinsOptions)
