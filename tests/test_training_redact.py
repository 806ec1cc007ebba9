"""Published text contains no private paths."""

from pathlib import Path

import pytest

from training.redact import redacted, redacted_command, redacted_path


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("checkpoints/emoji", "checkpoints/emoji"),
        ("emoji", "emoji"),
        ("owner/name", "owner/name"),
        (Path("runs") / "a", "runs/a"),
        ("", ""),
        ("/home/me/clients/acme", "acme"),
        ("/home/me/my photos/", "my photos"),
        ("../clients/acme", "acme"),
        ("runs/../../acme", "acme"),
        ("~/acme", "acme"),
        ("C:\\Users\\me\\acme", "acme"),
        ("C:/Users/me/acme", "acme"),
        ("\\\\server\\clients\\acme", "acme"),
        ("/", "."),
        ("..", "."),
    ],
)
def test_private_paths_become_their_names(path: str | Path, told: str) -> None:
    assert redacted_path(path) == told


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("accelerate launch seq2seq/train.py --out runs/a", "accelerate launch seq2seq/train.py --out runs/a"),
        ("/usr/bin/python /home/me/train.py --out /home/me/a", "python train.py --out a"),
        ("x --out=/home/me/a --data='/home/me/my photos'", "x --out=a '--data=my photos'"),
        ("x --parts '[/home/me/a, /home/me/b]'", "x --parts '[a, b]'"),
        ("""x --all '{"data": "/home/me/a", "out": "../b"}'""", """x --all '{"data": "a", "out": "b"}'"""),
        ("x --at file:///home/me/a", "x --at file:a"),
        ("x --from https://example.org/a/b --lr 1e-3", "x --from https://example.org/a/b --lr 1e-3"),
        ("x 'not closed /home/me/a", """x ''"'"'not' closed a"""),
    ],
)
def test_a_command_contains_no_private_paths(command: str, told: str) -> None:
    assert redacted_command(command) == told


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("labels:/home/me/my photos", "labels:my photos"),
        ("labels://home/me/photos", "labels:photos"),
        ("emoji+/home/me/photos", "emoji+photos"),
        ("/home/me/a+labels:~/b+hf://datasets/owner/name@1f+../c", "a+labels:b+hf://datasets/owner/name@1f+c"),
        ("emoji+C:\\Users\\me\\acme", "emoji+acme"),
        ("C://Users/me/acme", "acme"),
        ("emoji:noto,fluent-flat+scenes:20000+runs/a", "emoji:noto,fluent-flat+scenes:20000+runs/a"),
    ],
)
def test_a_source_contains_no_private_paths(source: str, told: str) -> None:
    """A label source and joined sources were once published as they were."""
    assert redacted({"data": source, "more": [source]}) == {"data": told, "more": [told]}
    assert redacted_command(f"x --data '{source}'").replace("'", "") == f"x --data {told}"
    assert redacted_command(f"x --data='{source}'").replace("'", "") == f"x --data={told}"


def test_lists_and_sentences_stay_whole() -> None:
    command = """x --all '{"data": "emoji+/home/me/a", "out": "../b"}'"""
    assert redacted_command(command) == """x --all '{"data": "emoji+a", "out": "b"}'"""
    for text in ("a fox: cats and/or dogs", "AP / AR", "2.9.0+cpu", "no, then bf16", "https://example.org/a+b/c"):
        assert redacted({"text": text}) == {"text": text}


def test_json_contains_no_private_paths() -> None:
    record = {"data": "/home/me/a", "steps": 3, "init": {"command": "x --out /home/me/b"}, "more": ["/home/me/c", None]}
    assert redacted(record) == {"data": "a", "steps": 3, "init": {"command": "x --out b"}, "more": ["c", None]}
