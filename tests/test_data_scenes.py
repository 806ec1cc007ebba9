"""Scenes: what they show, their layout, captions and pictures."""

from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import IMAGES

from data.colors import HUES
from data.emoji import ORIGINALS
from data.scenes.layout import holds, layout
from data.scenes.phrases import captions
from data.scenes.render import render
from data.scenes.scene import HELDOUT_COMBINATION, Group, Scene, scene
from data.scenes.sprites import Sprites, tinted
from data.scenes.vocabulary import OPPOSITE, THINGS
from data.source import open_corpus, open_source
from data.splits import TRAIN, VALIDATION
from tokenizer.encode import codes_with_eos
from tokenizer.image_tokenizer import ImageTokenizer
from training.errors import BadInput

ALL = dict.fromkeys(ORIGINALS, THINGS)
SCENES = [scene(0, number, ALL) for number in range(3000)]


def thing(name):
    return next(one for one in THINGS if one.name == name)


def test_a_scene_is_a_function_of_seed_and_number():
    assert [scene(0, number, ALL) for number in range(50)] == SCENES[:50]
    assert scene(1, 0, ALL) != SCENES[0]


def test_each_kind_has_its_share():
    shares = {kind: count / len(SCENES) for kind, count in Counter(one.kind for one in SCENES).items()}
    expected = {"single": 0.15, "two objects": 0.2, "counting": 0.2, "colors": 0.15, "position": 0.2,
                "color attribution": 0.1}  # fmt: skip
    assert shares == pytest.approx(expected, abs=0.03)
    low = Counter(one.eighths for one in SCENES)
    assert set(low) == set(range(1, 9)) and 1 - low[8] / len(SCENES) == pytest.approx(0.1, abs=0.02)


def combined(scenes):
    """Yields pairs of things, things with a count and things with a color."""
    for one in scenes:
        yield from ((group.count, group.thing.name) for group in one.groups if group.count > 1)
        yield from ((group.hue, group.thing.name) for group in one.groups if group.hue)
        if len(one.groups) == 2:
            yield frozenset(group.thing.name for group in one.groups)


def test_held_out_combinations_are_in_no_training_scene():
    trained = {*combined(one for one in SCENES if one.split == TRAIN)}
    for split in (VALIDATION, HELDOUT_COMBINATION):
        its = [one for one in SCENES if one.split == split]
        assert 0.03 < len(its) / len(SCENES) < 0.12
        assert all({*combined([one])} - trained for one in its)
    tuned = {*combined(one for one in SCENES if one.split != HELDOUT_COMBINATION)}
    assert all({*combined([one])} - tuned for one in SCENES if one.split == HELDOUT_COMBINATION)


def test_boxes_are_in_the_picture_and_apart_and_relations_hold():
    for number, one in enumerate(SCENES[:1000]):
        boxes, height = layout(one, 0, number), one.eighths / 8
        assert len(boxes) == sum(group.count for group in one.groups)
        for box in boxes:
            assert 0 <= box.x <= box.x + box.side <= 1 and 0 <= box.y <= box.y + box.side <= height + 1e-9
        for a, b in combinations(boxes, 2):
            assert max(abs(p - q) for p, q in zip(a.center, b.center, strict=True)) >= (a.side + b.side) / 2
        if one.relation:
            assert holds(one.relation, *boxes) and holds(OPPOSITE[one.relation], *boxes[::-1])
            assert sum(holds(relation, *boxes) for relation in OPPOSITE) == 1


def test_captions_name_either_thing_first():
    fox, gift = Group(thing=thing("fox")), Group(thing=thing("gift"), hue="orange")
    assert captions(Scene(groups=(fox, gift), style="fluent-flat", relation="left of", background="light blue")) == (
        "a fluent flat drawing of a fox left of an orange gift on a light blue background",
        "a fox left of an orange gift on a light blue background, fluent flat style",
        "a fox left of an orange gift on a light blue background, drawn in the fluent flat style",
        "a fox left of an orange gift on a light blue background",
        "a fluent flat drawing of an orange gift right of a fox on a light blue background",
        "an orange gift right of a fox on a light blue background",
    )
    oxen = Group(thing=thing("ox"), count=3)
    assert captions(Scene(groups=(oxen,), style="openmoji", eighths=3)) == (
        "an openmoji drawing of three oxen, 8:3",
        "three oxen, openmoji style, 8:3",
        "three oxen, drawn in the openmoji style, 8:3",
        "three oxen, 8:3",
    )


@pytest.fixture(scope="module")
def sprites():
    return Sprites({}, 128)


def test_a_scene_is_the_same_at_every_size(sprites):
    for number in (3, 5, 8):
        boxes = layout(SCENES[number], 0, number)
        small, large = (render(SCENES[number], boxes, sprites, size).astype(float) for size in (64, 256))
        reduced = large.reshape(3, 64, 4, 64, 4).mean((2, 4))
        assert small.shape == (3, 64, 64) and np.abs(small - reduced).mean() < 8


def test_a_picture_is_white_below_a_low_scene(sprites):
    number = next(i for i, one in enumerate(SCENES) if one.eighths == 3 and one.background == "light blue")
    picture = render(SCENES[number], layout(SCENES[number], 0, number), sprites, 64)
    assert (picture[:, 24:] == 255).all() and (picture[:, 0, 0] == (196, 226, 250)).all()


def test_tinting_keeps_outlines_and_changes_colorful_pixels(sprites):
    apple = sprites.get(thing("apple").codes, "openmoji")
    blue = np.asarray(tinted(apple, HUES["blue"])).astype(int)
    before = np.asarray(apple).astype(int)
    black = (before[..., :3].max(-1) < 2) & (before[..., 3] > 200)
    assert black.any() and np.abs(blue - before)[black].max() < 6
    red = (before[..., 0] > 200) & (before[..., 2] < 90) & (before[..., 3] > 200)
    assert red.any() and (blue[red][:, 2] > blue[red][:, 0] + 60).all()
    assert (blue[..., 3] == before[..., 3]).all()


def test_scenes_are_a_source_like_any_other(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")  # without npm there are three styles
    with pytest.warns(UserWarning, match="continues without"):
        pictures = open_source("scenes:24", size=32, cache=tmp_path)
    assert len(pictures) == 24 and pictures[0].shape == (3, 32, 32)
    assert pictures.key(7) == "scene-7" and pictures.captions(7)[0].split()[1] in {*ORIGINALS}
    with pytest.warns(UserWarning, match="continues without"):
        corpus = open_corpus("scenes:48", tmp_path)
    assert corpus.captions(7) == pictures.captions(7)  # more scenes do not change the first ones


def test_sources_can_be_joined(tmp_path, photos, monkeypatch):
    monkeypatch.setenv("PATH", "")
    source = f"{photos}+scenes:40"
    joined = open_source(source, size=16, split="train", cache=tmp_path, limit=8)
    apart = [open_source(one, size=16, split="train", cache=tmp_path, limit=8) for one in source.split("+")]
    assert len(joined) == 16 and joined.name == "+".join(one.name for one in apart)
    for i in range(16):
        part, own = apart[i // 8], i % 8
        assert (joined[i] == part[own]).all() and joined.captions(i) == part.captions(own)
        assert joined.height(i) == part.height(own) and joined.key(i).endswith(part.key(own))
    assert len({joined.group(i) for i in range(16)}) == 16 and joined.key(15).startswith("scenes/scene-")
    assert len({joined.fingerprint, *(one.fingerprint for one in apart)}) == 3
    with pytest.raises(IndexError):
        joined[16]
    with pytest.raises(BadInput, match=r"nowhere: no such file or folder"):
        open_source("scenes:4+nowhere", size=16, cache=tmp_path)


def test_codes_end_at_the_height_of_the_picture(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    torch.manual_seed(0)
    tokenizer = ImageTokenizer(IMAGES)
    encode = codes_with_eos(tokenizer)
    images = torch.randint(256, (3, 3, 12, 12), dtype=torch.uint8)
    codes = encode(images, torch.tensor([1.0, 3 / 8, 1 / 8]))
    whole, (grid, eos) = tokenizer.encode(images), (IMAGES.grid, IMAGES.quantizer.size)
    rows = [grid, -(-grid * 3 // 8), -(-grid // 8)]  # a partly filled row counts
    for one, all_, end in zip(codes, whole, rows, strict=True):
        assert (one[:end] == all_[:end]).all() and (one[end:] == eos).all()


@pytest.mark.parametrize("number", ["0", "-3", "many", "1000001", "٣"])
def test_an_invalid_number_of_scenes_is_refused(number):
    with pytest.raises(BadInput, match="must be a number of scenes from 1 to 1,000,000"):
        open_corpus(f"scenes:{number}", Path("cache"))
