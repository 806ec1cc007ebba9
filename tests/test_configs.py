"""The prompts of the demo are chosen by hash, not by hand."""

import hashlib
from pathlib import Path

import yaml

from data.emoji import ORIGINALS, Emoji, emojis


def test_the_prompts_of_the_demo_are_chosen_by_hash() -> None:
    def rank(emoji: Emoji) -> str:
        return hashlib.sha256(f"demo {emoji.key}".encode()).hexdigest()

    expected = []
    for split in ("train", "heldout-style"):
        for style in ORIGINALS:
            bare = [e for e in emojis() if (e.split, e.style) == (split, style) and e.name == e.family]
            expected += [emoji.captions[0] for emoji in sorted(bare, key=rank)[:2]]
    demo = yaml.safe_load((Path(__file__).parents[1] / "configs" / "demo.yaml").read_text())
    assert demo == {"prompt": expected, "columns": 6}
