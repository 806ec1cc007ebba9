"""Removes private paths from what is published with a model: a path becomes its last name."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

# A URL, or the characters of a path inside a list, a mapping or `NAME=PATH`.
_ADDRESS_OR_WORD = re.compile(r"""\w\w+://[^\s,;|'"()\[\]{}]+|(?:[A-Za-z]:(?=[\\/]))?[^\s,;:=|'"()\[\]{}]+""")


def redacted_path(path: str | Path) -> str:
    """The path itself if it is relative and stays inside the working directory; otherwise its last name.

    Names of corpora and of models on the Hub count as relative paths, so they stay.
    """
    text = str(path)
    pure: PurePath = PureWindowsPath(text) if "\\" in text or re.match("[A-Za-z]:/", text) else PurePosixPath(text)
    if not (pure.root or pure.drive or ".." in pure.parts or text.startswith("~")):
        return text
    return pure.name.replace("..", "") or "."


def redacted_command(command: str) -> str:
    """A shell command with each path in it replaced by `redacted_path` of it."""
    try:
        words = shlex.split(command)
    except ValueError:  # unbalanced quotes: the file was edited
        words = command.split()
    return shlex.join(map(_word, words))


def redacted(value: Any) -> Any:
    """A JSON value with all its paths redacted: the text under `command` as a command, any other text as a path."""
    if isinstance(value, Mapping):
        return {
            key: redacted_command(its) if key == "command" and isinstance(its, str) else redacted(its)
            for key, its in value.items()
        }
    if isinstance(value, list):
        return [redacted(item) for item in value]
    return redacted_path(value) if isinstance(value, str) else value


def _word(word: str) -> str:
    flag, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    whole = redacted_path(value)  # the whole value first: a path may contain spaces
    return f"{flag}{equals}{_ADDRESS_OR_WORD.sub(_part, value) if whole == value else whole}"


def _part(match: re.Match[str]) -> str:
    text = match[0]
    if "://" in text and not text.startswith("file:"):
        return text
    return redacted_path(text.removeprefix("file:"))
