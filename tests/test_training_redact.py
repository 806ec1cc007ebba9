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
        ("x --at file:///home/me/a", "x --at a"),
        ("x --from https://example.org/a/b --lr 1e-3", "x --from https://example.org/a/b --lr 1e-3"),
        ("x 'not closed /home/me/a", """x ''"'"'not' closed a"""),
    ],
)
def test_a_command_contains_no_private_paths(command: str, told: str) -> None:
    assert redacted_command(command) == told


def test_json_contains_no_private_paths() -> None:
    record = {"data": "/home/me/a", "steps": 3, "init": {"command": "x --out /home/me/b"}, "more": ["/home/me/c", None]}
    assert redacted(record) == {"data": "a", "steps": 3, "init": {"command": "x --out b"}, "more": ["c", None]}
