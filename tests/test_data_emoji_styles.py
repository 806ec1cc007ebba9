"""Styles from npm, with tiny packages from a fake npm client."""

import base64
import dataclasses
import hashlib
import io
import json
import pickle
import sys
import tarfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.emoji import ORIGINALS, SOURCE, STYLES, Emoji, credits, emojis, find, npm, prompt
from data.emoji.__main__ import EmojiOptions, main
from data.emoji.collection import Collection
from data.emoji.corpus import EmojiCorpus
from data.emoji.matching import matched, tones_set_right
from data.emoji.styles import COLLECTED, chosen, family_of
from data.source import open_source
from training.errors import BadInput

SQUARE = '<path fill="{}" d="M4 4h24v24H4z"/>'
ICONS = {
    "width": 32,
    "height": 32,
    "icons": {
        "fox": {"body": SQUARE.format("#f60")},
        "greatbritainflag": {"body": SQUARE.format("#00f"), "height": 16},
        "documentwithtext": {"body": SQUARE.format("#000")},
        "ghost": {"body": SQUARE.format("#fff")},
        "rocket": {"body": "<path"},
        "heartblue": {"body": SQUARE.format("#00f")},
        "red-apple": {"body": SQUARE.format("#f00")},
        "redapple": {"body": SQUARE.format("#a00")},
    },
    "aliases": {"wolf": {"parent": "documentwithtext"}, "pear": {"parent": "fox", "hFlip": True}},
}

Publish = Callable[[str, Mapping[str, bytes]], None]


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Returns a function that publishes files as a style's package in the fake npm, which has no other packages."""
    if sys.platform == "win32":
        pytest.skip("the stand-in for npm is a script with a shebang")
    program = tmp_path / "bin" / "npm"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport shutil, sys\nfrom pathlib import Path\n"
        "assert sys.argv[1] == 'pack' and '--ignore-scripts' in sys.argv\n"
        "folder = Path(sys.argv[sys.argv.index('--pack-destination') + 1])\n"
        f"file = Path({str(tmp_path)!r}) / (sys.argv[-1].replace('/', '+') + '.tgz')\n"
        "sys.exit('npm error code ENOTCACHED') if not file.exists() else shutil.copy(file, folder / 'package.tgz')\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))

    def add(style: str, files: Mapping[str, bytes]) -> None:
        package = COLLECTED[style]
        archive = tmp_path / f"{package.name.replace('/', '+')}@{package.version}.tgz"
        with tarfile.open(archive, "w:gz") as tar:
            for name, data in files.items():
                member = tarfile.TarInfo(f"package/{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        monkeypatch.setitem(COLLECTED, style, dataclasses.replace(package, integrity=f"sha512-{digest}"))  # type: ignore[arg-type]

    return add


def icons(drawings: Mapping[str, str]) -> dict[str, bytes]:
    found = {"width": 32, "height": 32, "icons": {name: {"body": body} for name, body in drawings.items()}}
    return {"icons.json": json.dumps(found).encode()}


def test_a_style_has_the_drawings_of_its_package(tmp_path: Path, publish: Publish) -> None:
    publish("firefox", {"README.md": b"art", "icons.json": json.dumps(ICONS).encode()})
    with pytest.warns(UserWarning, match="emoji-32/all: 2 unusable pictures"):
        pictures = open_source("emoji:firefox", size=32, cache=tmp_path / "cache")
    assert [pictures.key(i) for i in range(len(pictures))] == [
        "1f43a/firefox", "1f98a/firefox", "1f34e/firefox", "1f1ec-1f1e7/firefox",
    ]  # fmt: skip
    assert pictures.captions(1)[0] == "a firefox emoji of a fox"
    fox, flag = pictures[1], pictures[3]
    assert fox[:, 16, 16].tolist() == [255, 102, 0] and fox[:, 0, 0].tolist() == [255, 255, 255]
    assert flag[:, 2].min() == 255 and flag[:, 16, 16].tolist() == [0, 0, 255]  # half as tall, in the middle
    assert pictures.parts[0].skipped.keys() == {"1f47b/firefox", "1f680/firefox"}
    assert "nothing but white" in pictures.parts[0].skipped["1f47b/firefox"]
    assert isinstance(pictures.parts[0].corpus, EmojiCorpus)
    assert pictures.parts[0].corpus.collections["firefox"].left_out == {
        "heartblue": "is cut off",
        "redapple": "shows what red-apple shows",
    }


def test_a_package_may_hold_pictures(tmp_path: Path, publish: Publish) -> None:
    file = io.BytesIO()
    Image.new("RGBA", (256, 256), (0, 0, 255, 255)).save(file, "WEBP", lossless=True)
    names = ("1f98a.webp", "1f44b-1f3fc.webp", "1f441-fe0f-200d-1f5e8-fe0f.webp", "1f3f4-e0067_e0062.webp")
    publish("fluent-3d", {f"assets/{name}": file.getvalue() for name in names})
    corpus = EmojiCorpus("emoji:fluent-3d", tmp_path / "cache")
    assert set(corpus.keys) == {"1f98a/fluent-3d", "1f44b-1f3fd/fluent-3d", "1f441-200d-1f5e8/fluent-3d"}
    assert (corpus.render(0, 16) == np.array([0, 0, 255])[:, None, None]).all()
    assert corpus.collections["fluent-3d"].left_out == {"1f3f4-e0067_e0062.webp": "shows none of Unicode's emoji"}


def test_a_style_is_fetched_once_and_pickled_as_a_file_name(
    tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("firefox", icons({"fox": SQUARE.format("#f60")}))
    first = EmojiCorpus("emoji:firefox", tmp_path / "cache")
    monkeypatch.setenv("PATH", "")
    again = EmojiCorpus("emoji:firefox", tmp_path / "cache")
    assert len(pickle.dumps(again)) < 10_000
    assert (pickle.loads(pickle.dumps(again)).render(0, 16) == first.render(0, 16)).all()


def test_a_package_must_have_the_pinned_hash(tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    publish("firefox", icons({"fox": SQUARE.format("#f60")}))
    wrong = dataclasses.replace(COLLECTED["firefox"], integrity="sha512-AAAA")
    with monkeypatch.context() as patch:
        patch.setitem(COLLECTED, "firefox", wrong)  # type: ignore[arg-type]
        with pytest.raises(BadInput, match=r"firefox: npm package @iconify-json/fxemoji@1.2.2: its SHA-512 is"):
            EmojiCorpus("emoji:firefox", tmp_path / "cache")
    monkeypatch.setattr(npm, "_LARGEST", 10)
    with pytest.raises(BadInput, match=r"icons.json is too large to unpack"):
        EmojiCorpus("emoji:firefox", tmp_path / "cache")
    assert not list((tmp_path / "cache" / "emoji").glob("*.zip"))
    with pytest.raises(BadInput, match=r"emojione: npm could not fetch @iconify-json/emojione@1.2.3: npm error code E"):
        EmojiCorpus("emoji:emojione", tmp_path / "cache")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BadInput, match="npm is not installed"):
        EmojiCorpus("emoji:emojione", tmp_path / "cache")


def test_emoji_are_all_styles_that_can_be_fetched(tmp_path: Path, publish: Publish) -> None:
    publish("firefox", icons({"fox": SQUARE.format("#f60")}))
    Collection("firefox", tmp_path / "cache")
    with pytest.warns(UserWarning, match="continues without noto-blob, fluent-flat, .*emojione-v1: npm could not"):
        corpus = EmojiCorpus("emoji", tmp_path / "cache")
    assert corpus.styles == (*ORIGINALS, "firefox")
    assert len(corpus.keys) == 3 * 3_781 + 1


def test_a_picture_that_is_in_another_split_is_left_out(tmp_path: Path, publish: Publish) -> None:
    split: dict[str, list[Emoji]] = defaultdict(list)
    for emoji in emojis(("firefox",)):
        if "-" not in emoji.codes and matched([emoji.name], "firefox") == emoji.codes:
            split[emoji.split].append(emoji)
    trained, held = split["train"][:2], split["heldout-concept"][0]
    same, other = SQUARE.format("#f60"), SQUARE.format("#00f")
    publish("firefox", icons({trained[0].name: same, trained[1].name: same, held.name: same, "fox": other}))
    pictures = open_source("emoji:firefox", size=16, cache=tmp_path / "cache")
    left = {pictures.key(i) for i in range(len(pictures))}
    assert left in ({trained[0].key, trained[1].key, "1f98a/firefox"}, {held.key, "1f98a/firefox"})
    ((_, why),) = pictures.parts[0].excluded.items()
    assert "is the same picture as" in why and "heldout-concept" in why


def test_the_command_says_what_there_is(tmp_path: Path, publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    publish("firefox", icons({"fox": SQUARE.format("#f60"), "heartblue": SQUARE.format("#00f")}))
    main(EmojiOptions(data="emoji:firefox", size=16, cache=tmp_path / "cache", sheets=tmp_path / "sheets"))
    said = capsys.readouterr().out
    assert "1 emoji in 1 styles (firefox 1) at 16 px in" in said
    (listed,) = (tmp_path / "cache").glob("emoji-16px-1-*-left-out.txt")
    assert listed.read_text() == "firefox, heartblue: is cut off\n"
    assert [file.name for file in (tmp_path / "sheets").iterdir()] == ["firefox.png"]


def test_styles_are_chosen_by_name() -> None:
    assert chosen("emoji") is None
    assert chosen("emoji:noto,fluent-flat,twemoji") == ["twemoji", "noto", "fluent-flat"]
    for wrong in ("emoji:", "emoji:apple", "emoji:noto,"):
        with pytest.raises(BadInput, match=r"no style '(apple)?'; there are twemoji, openmoji, noto, noto-blob"):
            chosen(wrong)


def test_credits_are_of_the_styles_in_use() -> None:
    assert credits(["emoji:noto", "emoji:fluent-3d,fluent-flat"]) == (
        "Noto Emoji (c) Google, OFL 1.1; Fluent Emoji (c) Microsoft, MIT"
    )
    assert all(name in credits([SOURCE]) for name in ("Twemoji", "OpenMoji", "Noto"))
    assert "EmojiOne 1, CC BY-SA 4.0" in credits(["emoji"])


def test_captions_name_styles_in_plain_english() -> None:
    assert prompt("fox", "fluent-flat") == "a fluent flat emoji of a fox"
    assert find("1f98a/emojione-v1").captions == (
        "an emojione v1 emoji of a fox",
        "an emojione v1 drawing of a fox",
        "a fox, drawn in the emojione v1 style",
        "fox, emojione v1 style",
        "emojione v1 emoji: fox",
    )


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("fox", "1f98a"),
        ("fox-face", "1f98a"),  # what CLDR called it, and the character is still called
        ("light-bulb", "1f4a1"),  # no skin tone
        ("flag-for-chad", "1f1f9-1f1e9"),
        ("flag-for-cote-divoire", "1f1e8-1f1ee"),
        ("flag-for-turkey", "1f1f9-1f1f7"),
        ("artist-medium-dark", "1f9d1-1f3fe-200d-1f3a8"),
        ("bride-with-veil-dark-skin-tone", "1f470-1f3ff"),
        ("man-blonde-hair-medium-light", "1f471-1f3fc-200d-2642"),
        ("woman-with-bunny-ears", "1f46f-200d-2640"),
        ("keycap-asterisk", "002a-20e3"),
        ("dog", "1f415"),
        ("document-with-text", None),
        ("dark-skin-tone", None),
    ],
)
def test_names_are_matched_with_concepts(name: str, codes: str | None) -> None:
    assert matched([name], "emojione") == codes


def test_firefox_has_its_own_names_and_aliases_come_last() -> None:
    assert matched(["dog"], "firefox") == "1f436"
    assert matched(["upwards-button", "up-button"], "noto-blob") == "1f53c"
    assert matched(["unheard-of", "bear"], "noto-blob") == "1f43b"


def test_fluent_3d_swaps_two_tones_with_exceptions() -> None:
    assert tones_set_right("1f44b-1f3fc") == "1f44b-1f3fd"
    assert tones_set_right("1f590-fe0f") == "1f590"
    assert tones_set_right("1f9d1-1f3fd-200d-1f4bb") == "1f9d1-1f3fd-200d-1f4bb"


def test_new_styles_hold_out_their_own_pairs() -> None:
    """Families held out as a whole stay so. Styles that look alike hold out the same pairs; blobs hold out those of
    Noto."""
    splits: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for emoji in emojis(STYLES):
        splits[emoji.family][emoji.style].add(emoji.split)
    shares: dict[str, Counter[str]] = defaultdict(Counter)
    for family in splits.values():
        assert all(len(its) == 1 for its in family.values())
        its = {style: next(iter(found)) for style, found in family.items()}
        for whole in ("validation", "heldout-concept"):
            assert set(its.values()) == {whole} or whole not in its.values()
        for style in STYLES:
            assert all(its[style] == its[other] for other in STYLES if family_of(other) == family_of(style))
            shares[style][its[style]] += 1
    for style in ("fluent-3d", "emojione", "firefox"):
        assert shares[style].keys() == {"train", "validation", "validation-style", "heldout-style", "heldout-concept"}
        for split in ("validation-style", "heldout-style"):
            assert 0.03 < shares[style][split] / len(splits) < 0.07
    assert find("1f98a/fluent-flat").split == find("1f98a/fluent-3d").split
