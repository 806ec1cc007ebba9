"""The one exception that means: the user gave us something we cannot use; and what its messages are made of."""

import unicodedata

_OVERRIDES = {*"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"}
"""Characters that show other text than is there."""


class BadInput(ValueError):
    """Input that cannot be used.

    The message is one line for a person: what was wrong, where, and what would be right. Commands print it and exit
    with code 2 (see `training.cli.command`); library callers catch it as a `ValueError`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines()))  # reasons quoted may be longer


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
