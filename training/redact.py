"""Removes private paths from what is published with a model: a path becomes its last name."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

# The sign that joins two sources, as in `emoji+/home/me/photos`, if the second has a path.
_JOINT = r"\+(?=[/\\~]|\.\.|\w+:)"
# What precedes a path: `--name=`, and the kind of a source, as in `labels:PATH`.
_PREFIX = re.compile(r"(?:-[^=]*=)?(?:(?:file|labels):|\w\w+:(?!//\w))?")
# A URL, or the characters of a path inside a list, a mapping or `NAME=PATH`.
_URL_OR_WORD = re.compile(
    rf"""(?!file:|labels:)(?P<url>\w\w+://\w(?:(?!{_JOINT})[^\s,;|'"()\[\]{{}}])*)"""
    rf"""|(?:[A-Za-z]:(?=[\\/]))?(?:(?!{_JOINT})[^\s,;:=|'"()\[\]{{}}])+"""
)


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
    return shlex.join(map(_text, words))


def redacted(value: Any) -> Any:
    """A JSON value with all its paths redacted: the text under `command` as a command, any other text as a path or
    as words that may be paths."""
    if isinstance(value, Mapping):
        return {
            key: redacted_command(its) if key == "command" and isinstance(its, str) else redacted(its)
            for key, its in value.items()
        }
    if isinstance(value, list):
        return [redacted(item) for item in value]
    return _text(value) if isinstance(value, str) else value


def _text(text: str) -> str:
    """Text with its paths redacted: a path, sources joined by `+`, a list, a mapping, or a sentence."""
    if text.startswith(("[", "{")):
        return _URL_OR_WORD.sub(_part, text)
    return "+".join(map(_source, re.split(_JOINT, text)))


def _source(text: str) -> str:
    prefix = _PREFIX.match(text)
    assert prefix is not None  # it may be empty
    path = text[prefix.end() :]
    whole = redacted_path(path)  # the whole path first: it may contain spaces
    return f"{prefix[0]}{whole}" if whole != path else _URL_OR_WORD.sub(_part, text)


def _part(match: re.Match[str]) -> str:
    is_path = not match["url"] and re.search(r"\w", match[0])  # a lone slash is none
    return redacted_path(match[0]) if is_path else match[0]
