"""`BadInput`, the error for input that cannot be used, and helpers for its messages."""

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

_OVERRIDES = {*"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"}
"""Characters that change the direction of text, so that it reads as something else."""

_LONGEST = 500
"""Most characters of a message. It may quote text from elsewhere, of any length."""


class BadInput(ValueError):
    """Input that cannot be used.

    The message is one line for a person: what was wrong, where, and what would be right. Commands print it and exit
    with code 2 (`training.cli.command`). Python callers may catch it as a `ValueError`. A message of more than 500
    characters loses its middle. Characters that control a terminal are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(message: str) -> str:
    """The message on one line, safe to print on a terminal, without its middle if it is long."""
    line = printable(" ".join(part.strip() for part in message.splitlines()))  # quoted errors may have several lines
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 155]} ... {line[-150:]}"


def reason(error: Exception) -> str:
    """The first line of what an error of a library says, or the name of its type if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def install(extra: str) -> str:
    """The command, for a message, that installs an extra of `pyproject.toml`.

    It installs from this clone. By the project's name alone, pip would find another project.
    """
    return f'run pip install -e ".[{extra}]" in the folder of this clone'


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """A context for imports from an extra's packages. `BadInput` for a missing one says how to install the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or str(error)).partition(".")[0]
        raise BadInput(f"the package {package} is not installed: {install(extra)}") from None


def printable(text: str) -> str:
    """`text` with control characters escaped, because a terminal obeys them, and surrogates, because UTF-8 has none."""
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in ("Cc", "Cs") or character in _OVERRIDES
        else character
        for character in text
    )
