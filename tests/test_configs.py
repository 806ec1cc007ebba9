"""The prompts of the demo are chosen by hash, not by hand."""

import hashlib
from pathlib import Path

import yaml

from data.emoji import ORIGINALS, emojis
from evaluation.suites import open_suite


def rank(name: str) -> str:
    return hashlib.sha256(f"demo {name}".encode()).hexdigest()


def test_the_prompts_of_the_demo_are_chosen_by_hash(tmp_path: Path) -> None:
    expected = []
    for split in ("train", "heldout-style"):
        for style in ORIGINALS:
            bare = [e for e in emojis() if (e.split, e.style) == (split, style) and e.name == e.family]
            expected += [emoji.captions[0] for emoji in sorted(bare, key=lambda emoji: rank(emoji.key))[:2]]
    scenes = sorted(
        open_suite("scenes/heldout-combination", cache=tmp_path).prompts, key=lambda scene: rank(scene.text)
    )
    chosen = {
        scene.category: scene.text for scene in reversed(scenes)
    }  # the smallest of each task comes last, and stays
    rest = [scene.text for scene in scenes if scene.text not in chosen.values()]
    expected += sorted([*chosen.values(), rest[0]], key=rank)
    demo = yaml.safe_load((Path(__file__).parents[1] / "configs" / "demo.yaml").read_text())
    assert demo == {"prompt": expected, "upscale": 4, "columns": 6}
