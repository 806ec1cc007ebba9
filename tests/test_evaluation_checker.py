"""The checker of scenes: its segments, its names, and what it accepts."""

from collections import defaultdict
from itertools import chain

import numpy as np
import pytest
import torch

from data.colors import HUES, nearest
from data.emoji import ORIGINALS
from data.emoji.table import find
from data.scenes.layout import layout
from data.scenes.phrases import captions
from data.scenes.render import render
from data.scenes.scene import scene
from data.scenes.sprites import Sprites, tinted
from data.scenes.vocabulary import BACKGROUNDS, THINGS, UNFIT
from data.splits import TRAIN, VALIDATION
from evaluation import checker
from evaluation.checker import expected, shows
from evaluation.measure import is_right
from evaluation.segment import background, pieces
from evaluation.suites import open_suite
from training.errors import BadInput

FIT = {
    style: [one for one in THINGS
            if f"{one.codes}/{style}" not in UNFIT and find(f"{one.codes}/{style}").split == TRAIN]
    for style in ORIGINALS
}  # fmt: skip


def canvas(ground, *boxes):
    picture = np.empty((3, 64, 64), np.uint8)
    picture[:] = np.array(ground, np.uint8)[:, None, None]
    for (top, bottom, left, right), color in boxes:
        picture[:, top:bottom, left:right] = np.array(color, np.uint8)[:, None, None]
    return picture


@pytest.mark.parametrize("ground", BACKGROUNDS.values())
def test_pieces_are_what_differs_from_the_background(ground):
    red, speck = (200, 30, 40), (0, 255, 0)
    picture = canvas(ground, ((4, 24, 6, 16), red), ((30, 50, 30, 60), red), ((60, 61, 2, 3), speck))
    assert np.abs(np.array(background(picture)) - ground).max() <= 1
    large, small = pieces(picture, background(picture))
    assert (large.center, large.size) == ((45, 40), (30, 20))
    assert (small.center, small.size) == ((11, 14), (10, 20))
    assert small.mask.all()


def test_holes_are_filled_and_an_empty_picture_has_no_pieces():
    ring = canvas((255, 255, 255), ((10, 40, 10, 40), (0, 0, 200)), ((15, 35, 15, 35), (255, 255, 255)))
    assert [piece.mask.sum() for piece in pieces(ring, background(ring))] == [900]
    assert not pieces(canvas((10, 20, 30)), (10, 20, 30))


def test_shades_of_a_hue_have_its_name():
    for name, color in HUES.items():
        shades = np.array([color]) * np.array([[0.75], [0.9], [1.0], [1.08]])
        found = nearest(shades.clip(0, 255).astype(np.float32))
        assert [*HUES][np.bincount(found).argmax()] == name


@pytest.fixture(scope="module")
def sprites():
    return Sprites({}, 128)


def test_a_tinted_thing_has_that_color(sprites):
    wrong = []
    for style, things in FIT.items():
        for thing in (one for one in things if one.tintable):
            for name, color in HUES.items():
                image = tinted(sprites.get(thing.codes, style).resize((40, 40)), color)
                picture = canvas((255, 255, 255))
                pixels = np.asarray(image).transpose(2, 0, 1)
                alpha = pixels[3:] / 255
                picture[:, 10:50, 10:50] = (pixels[:3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
                (piece, *_) = pieces(picture, (255, 255, 255))
                if (found := checker.hue(picture, piece)) != name:
                    wrong.append((thing.name, style, name, found))
    assert len(wrong) < 0.02 * 8 * sum(one.tintable for things in FIT.values() for one in things), wrong


def test_pictures_pass_for_their_own_scene_and_fail_for_others(sprites):
    right, shuffled, before = defaultdict(list), [], ""
    for number in range(400):
        one = scene(1, number, FIT)  # not the seed of the corpus
        if one.eighths == 8:
            picture = render(one, layout(one, 1, number), sprites, 64)
            right[one.kind].append(shows(picture, expected(one)))
            shuffled.append(bool(before) and shows(picture, before))
            before = expected(one)
    shares = {kind: np.mean(answers) for kind, answers in right.items()}
    assert len(shares) == 6 and min(shares.values()) >= 0.9 and np.mean([*chain(*right.values())]) >= 0.95, shares
    assert np.mean(shuffled) < 0.03


def test_suites_of_scenes(tmp_path, monkeypatch, sprites):
    monkeypatch.setenv("PATH", "")  # three styles
    with pytest.warns(UserWarning, match="continues without"):
        suite = open_suite("scenes/validation", cache=tmp_path)
    assert len(suite.prompts) == 500
    assert len({prompt.category for prompt in suite.prompts}) == 5  # a single thing is no combination
    (number,) = (int(suite.prompts[0].key.removeprefix("scene-")),)
    one = scene(0, number, FIT)
    assert one.split == VALIDATION and suite.prompts[0].text.endswith(captions(one)[0])
    picture = torch.from_numpy(render(one, layout(one, 0, number), sprites, 64))
    assert is_right(suite.prompts[0].attribute, suite.prompts[0].expected, picture)
    with pytest.warns(UserWarning, match="continues without"):
        low = open_suite("scenes/low", limit=5, cache=tmp_path).prompts
    assert all(prompt.text.endswith(f", 8:{prompt.expected}") for prompt in low)
    assert is_right("height", "3", torch.zeros(3, 24, 64)) and not is_right("height", "3", torch.zeros(3, 32, 64))


def test_weights_that_are_not_the_shipped_ones_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checker, "WEIGHTS", tmp_path / "checker.safetensors")
    (tmp_path / "checker.safetensors").write_bytes(b"others")
    with pytest.raises(BadInput, match="not the shipped weights"):
        checker.checker.__wrapped__()
