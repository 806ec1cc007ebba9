"""What a person passes on tells nothing of where things lie on their machine: paths there become names."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

# An address, or a run of what a path within a list, a mapping or `NAME=PATH` is made of.
_ADDRESS_OR_WORD = re.compile(r"""\w\w+://[^\s,;|'"()\[\]{}]+|(?:[A-Za-z]:(?=[\\/]))?[^\s,;:=|'"()\[\]{}]+""")


def redacted_path(path: str | Path) -> str:
    """A relative path as it is, for whoever has the folder has it too; of any other its last name alone.

    What is no path but a name, of a corpus or on the Hub, is relative, and so stays.
    """
    text = str(path)
    pure: PurePath = PureWindowsPath(text) if "\\" in text or re.match("[A-Za-z]:/", text) else PurePosixPath(text)
    if not (pure.root or pure.drive or ".." in pure.parts or text.startswith("~")):
        return text
    return pure.name.replace("..", "") or "."


def redacted_command(command: str) -> str:
    """A command, in the notation of a shell, with each path in it as `redacted_path` has it."""
    try:
        words = shlex.split(command)
    except ValueError:  # not written by us
        words = command.split()
    return shlex.join(map(_word, words))


def redacted(value: Any) -> Any:
    """A JSON value with every text that is a path, and every `command`, as the functions above have them."""
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
    whole = redacted_path(value)  # which may hold spaces
    return f"{flag}{equals}{_ADDRESS_OR_WORD.sub(_part, value) if whole == value else whole}"


def _part(match: re.Match[str]) -> str:
    text = match[0]
    if "://" in text and not text.startswith("file:"):
        return text
    return redacted_path(text.removeprefix("file:"))
