"""The text tokenizer: it encodes any text without unknown ids, and no text can become a special piece."""

import random
import re
import sys
import warnings
from pathlib import Path

import pytest
import torch
from tiny_models import IMAGES

from tokenizer.image_tokenizer import ImageTokenizer
from tokenizer.text import EOS, NULL, PAD, UNKNOWN, CaptionCut, TextTokenizer, TextTokenizerConfig
from training.errors import BadInput

STYLES = ("noto", "openmoji", "twemoji")
NAMES = ("fox", "red apple", "cat face", "dog", "old key", "moon", "flag: Chad", "piñata")
CAPTIONS = [f"a {style} emoji of a {name}" for style in STYLES for name in NAMES]


def trained(captions: list[str] = CAPTIONS, max_length: int = 512, vocab_size: int = 400) -> TextTokenizer:
    return TextTokenizer.train(captions, vocab_size, TextTokenizerConfig(max_length=max_length))


@pytest.fixture(scope="module")
def text() -> TextTokenizer:
    return trained()


def ids(text: TextTokenizer, caption: str | None) -> list[int]:
    """Ids of a caption, without padding."""
    row = text.encode([caption])[0]
    return row[row != PAD].tolist()


@pytest.mark.parametrize(
    "caption",
    [
        *CAPTIONS[:3],
        "A FOX!?",
        "🦊 👩‍🚀 🏴󠁧󠁢󠁳󠁣󠁴󠁿 ☝🏽",
        "狐狸 きつね 여우 ثعلب שועל लोमड़ी",
        "e\u0301 \u00e9 ﬁ Å K",  # not normalised into each other
        "\x00\x01\x1b[0m\x7f\u0085",
        "tab\tline\nreturn\rform\f",
        "\u202eright\u200bto\ufeffleft\u2028",
        "\U0010ffff\ue000\ufffd",
        "no-break\u00a0and\u3000ideographic",
        "<null> </s> <pad> <unk> <0x41> <s>",
        "\\n 'quoted' \"twice\" {braces} %s",
        "",
    ],
)
def test_round_trip(text: TextTokenizer, caption: str) -> None:
    encoded = text.encode([caption])
    assert encoded.dtype == torch.int64
    assert encoded.shape == (1, 512)
    assert text.decode(encoded) == [caption]


def test_spaces_are_collapsed(text: TextTokenizer) -> None:
    """Repeated spaces do not change what a prompt means."""
    assert ids(text, "  a  noto   emoji ") == ids(text, "a noto emoji")
    assert text.decode(text.encode(["  a  noto   emoji "])) == ["a noto emoji"]


def test_no_input_is_unknown(text: TextTokenizer) -> None:
    rng = random.Random(0)
    planes = [(0x20, 0x7F), (0, 0x20), (0x80, 0x800), (0x800, 0xD800), (0xE000, 0x10000), (0x10000, 0x110000)]
    for _ in range(500):
        low, high = rng.choice(planes)
        caption = "".join(chr(rng.randrange(low, high)) for _ in range(rng.randrange(1, 40)))
        encoded = ids(text, caption)
        assert encoded[-1] == EOS
        assert min(encoded[:-1], default=UNKNOWN + 1) > UNKNOWN, repr(caption)
        assert max(encoded) < text.vocab_size
        collapsed = re.sub(" +", " ", caption).strip(" ")
        # U+2581 is the character that SentencePiece uses for a space
        assert text.decode(text.encode([caption])) == [collapsed.replace("\u2581", " ").removeprefix(" ")]


def test_layout_of_the_ids(text: TextTokenizer) -> None:
    encoded = text.encode(["a fox", None, ""])
    length = int((encoded[0] != PAD).sum())
    assert encoded[0, length - 1] == EOS
    assert (encoded[0, length:] == PAD).all()
    assert encoded[1].tolist() == [NULL] + [PAD] * 511
    assert encoded[2].tolist() == [EOS] + [PAD] * 511
    assert text.decode(encoded) == ["a fox", "", ""]
    assert text.encode([]).shape == (0, 512)


@pytest.mark.parametrize("fake", ["<null>", "</s>", "<pad>", "<unk>", "<s>", "▁<null>", "<0x41>"])
def test_text_cannot_become_special_pieces(text: TextTokenizer, fake: str) -> None:
    """Not even in captions that the text tokenizer was trained on."""
    for tokenizer in (text, trained([*CAPTIONS, *[f"{fake} {name}" for name in NAMES]])):
        for caption in (fake, f"a fox {fake} a dog", fake * 3):
            encoded = ids(tokenizer, caption)
            assert encoded[-1] == EOS
            assert min(encoded[:-1]) > UNKNOWN
            assert tokenizer.decode(tokenizer.encode([caption]))[0].lstrip() == caption.replace("▁", " ").lstrip()
    assert ids(text, "<0x41>") != ids(text, "A")


def test_a_long_caption_is_cut_with_a_warning() -> None:
    text = trained(max_length=6)
    with pytest.warns(CaptionCut, match=r"a caption of \d+ pieces is cut to 5, after 'a not"):
        (row,) = text.encode(["a noto emoji of a fox that does not end here"])
    assert row[-1] == EOS
    assert len(row) == 6
    assert "a noto emoji of a fox that".startswith(text.decode(row[None])[0])


def test_a_caption_that_just_fits_is_not_cut(text: TextTokenizer) -> None:
    caption = "a noto emoji of a fox"
    exact = trained(max_length=len(ids(text, caption)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ids(exact, caption) == ids(text, caption)
    with pytest.warns(CaptionCut):
        exact.encode([caption + " x"])


def test_half_a_surrogate_pair_is_not_text(text: TextTokenizer) -> None:
    with pytest.raises(BadInput, match="not text"):
        text.encode(["fine", "half \ud83e"])


def test_training_depends_only_on_the_set_of_captions(text: TextTokenizer) -> None:
    shuffled = random.Random(1).sample(CAPTIONS, len(CAPTIONS))
    again = trained([*shuffled, *shuffled[:5], "", "  ", f"  {CAPTIONS[0]} "])
    assert again.text_id == text.text_id
    assert trained(CAPTIONS[:-1]).text_id != text.text_id
    assert trained(max_length=511).text_id != text.text_id


def test_common_words_become_pieces(text: TextTokenizer) -> None:
    assert 260 < text.vocab_size <= 400
    assert len(ids(text, CAPTIONS[0])) < len(CAPTIONS[0])


@pytest.mark.parametrize("captions", [[], ["", "  "]])
def test_no_captions(captions: list[str]) -> None:
    with pytest.raises(BadInput, match="no caption"):
        trained(captions)


def test_more_letters_than_pieces() -> None:
    alphabet = "".join(map(chr, range(0x4E00, 0x4F00)))
    with pytest.raises(BadInput) as error:
        trained([alphabet], vocab_size=300)
    assert "300 pieces" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_round_trip(text: TextTokenizer, tmp_path: Path) -> None:
    text.save_pretrained(tmp_path / "new" / "text")
    again = TextTokenizer.from_pretrained(str(tmp_path / "new" / "text"))
    assert (again.text_id, again.config, again.vocab_size) == (text.text_id, text.config, text.vocab_size)
    assert torch.equal(again.encode(CAPTIONS), text.encode(CAPTIONS))
    assert {file.name for file in (tmp_path / "new" / "text").iterdir()} == {"config.json", "spiece.model"}


def test_saving_keeps_other_files_in_the_folder(text: TextTokenizer, tmp_path: Path) -> None:
    """`train_text --out photos` once replaced the folder and deleted its files."""
    (tmp_path / "holiday.jpg").write_text("dear")
    text.save_pretrained(tmp_path)
    trained(CAPTIONS[:5]).save_pretrained(tmp_path)
    assert (tmp_path / "holiday.jpg").read_text() == "dear"
    assert TextTokenizer.from_pretrained(tmp_path).text_id == trained(CAPTIONS[:5]).text_id


@pytest.fixture
def folder(text: TextTokenizer, tmp_path: Path) -> Path:
    text.save_pretrained(tmp_path)
    return tmp_path


def refusal(folder: Path) -> str:
    with pytest.raises(BadInput) as error:
        TextTokenizer.from_pretrained(folder)
    assert str(folder) in str(error.value)
    return str(error.value)


def test_missing_files(folder: Path) -> None:
    (folder / "spiece.model").unlink()
    assert "has no spiece.model" in refusal(folder)
    (folder / "config.json").unlink()
    assert "no such file" in refusal(folder)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, -1])
def test_a_truncated_model(folder: Path, keep: float) -> None:
    """An empty file once loaded as a tokenizer without pieces, which gave all captions the same ids."""
    file = folder / "spiece.model"
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    assert "not a complete SentencePiece model" in refusal(folder)


@pytest.mark.parametrize("content", [b"garbage", b"\x00" * 100, b"\xff" * 100])
def test_a_file_that_is_not_a_model(folder: Path, content: bytes) -> None:
    (folder / "spiece.model").write_bytes(content)
    assert "not a complete SentencePiece model" in refusal(folder)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('{"model": "TextTokenizer", "max_length": 1}', "TextTokenizerConfig.max_length is 1: must be from 2 to 65536"),
        ('{"model": "TextTokenizer", "max_len": 8}', "did you mean 'max_length'?"),
        ('{"model": "ImageTokenizer", "max_length": 8}', "does not describe a text tokenizer"),
        ("{", "not valid JSON"),
    ],
)
def test_a_wrong_config(folder: Path, config: str, said: str) -> None:
    (folder / "config.json").write_text(config)
    assert said in refusal(folder)


def test_the_command_trains_on_a_user_s_captions(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tokenizer.train_text import TextTrainingOptions, main
    from training.cli import command

    argv = ["--data", photos, "--cache", tmp_path / "cache", "--size", "16", "--vocab_size", "300"]
    monkeypatch.setattr(sys, "argv", ["x", *map(str, argv), "--out", str(tmp_path / "text"), "--model.max_length", "9"])
    command(main, TextTrainingOptions)
    assert f"the text tokenizer is in {tmp_path / 'text'}" in capsys.readouterr().out
    text = TextTokenizer.from_pretrained(tmp_path / "text")
    assert text.config.max_length == 9
    assert text.decode(text.encode(["a quilt"])) == ["a quilt"]
    command(main, TextTrainingOptions)  # the same again
    assert TextTokenizer.from_pretrained(tmp_path / "text").text_id == text.text_id
    capsys.readouterr()

    def refused(*more: str) -> str:
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as left:
            patch.setattr(sys, "argv", [*sys.argv, *more])
            command(main, TextTrainingOptions)
        assert left.value.code == 2
        return capsys.readouterr().err

    assert "and these captions make another" in refused("--model.max_length", "10")
    ImageTokenizer(IMAGES).save_pretrained(tmp_path / "model")  # its config.json was once overwritten
    assert "holds something other than a text tokenizer" in refused("--out", str(tmp_path / "model"))
    assert ImageTokenizer.from_pretrained(tmp_path / "model").config == IMAGES
    assert TextTokenizer.from_pretrained(tmp_path / "text").text_id == text.text_id
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--vocab_size", "200"])
    with pytest.raises(SystemExit) as left:
        command(main, TextTrainingOptions)
    assert left.value.code == 2
    assert "vocab_size is 200: must be from 300" in capsys.readouterr().err
