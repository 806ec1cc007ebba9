"""The one exception that means: the user gave us something we cannot use."""

_LONGEST = 500
"""Characters of a message; what it quotes may be somebody else's, and of any length."""


class BadInput(ValueError):
    """Input that cannot be used.

    The message is one line for a person: what was wrong, where, and what would be right. Commands print it and exit
    with code 2 (see `training.cli.command`); library callers catch it as a `ValueError`. Of a message of more than 500
    characters the middle is left out, and characters that would steer a terminal are spelled out.
    """

    def __init__(self, message: str) -> None:
        line = " ".join(part.strip() for part in message.splitlines())  # reasons quoted may be longer
        if len(line) > _LONGEST:
            line = f"{line[: _LONGEST * 2 // 3]} [...] {line[-_LONGEST // 4 :]}"
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in line))
