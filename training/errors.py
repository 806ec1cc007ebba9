"""The one exception that means: the user gave us something we cannot use; and what its messages are made of."""

import unicodedata

_OVERRIDES = {*"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"}
"""Characters that show other text than is there."""

_LONGEST = 500
"""Characters of a message; what it quotes may be somebody else's, and of any length."""


class BadInput(ValueError):
    """Input that cannot be used.

    The message is one line for a person: what was wrong, where, and what would be right. Commands print it and exit
    with code 2 (see `training.cli.command`); library callers catch it as a `ValueError`. Of a message of more than 500
    characters the middle is left out, and characters that would steer a terminal are spelled out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(message: str) -> str:
    """A message as a terminal shows it and does not obey it: on one line, and without its middle where it is long."""
    line = printable(" ".join(part.strip() for part in message.splitlines()))  # reasons quoted may have several
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 155]} ... {line[-150:]}"


def install(extra: str) -> str:
    """How to get what `pyproject.toml` lists under `extra`, for a message; by its name alone pip finds others' work."""
    return f'run pip install -e ".[{extra}]" in the folder of this clone'


def printable(text: str) -> str:
    """`text` with control characters escaped, as a terminal would obey them; so is what has no UTF-8."""
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in ("Cc", "Cs") or character in _OVERRIDES
        else character
        for character in text
    )
