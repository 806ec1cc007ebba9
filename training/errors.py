"""The one exception that means: the user gave us something we cannot use."""


class BadInput(ValueError):
    """Input that cannot be used.

    The message is one line for a person: what was wrong, where, and what would be right. Commands print it and exit
    with code 2 (see `training.cli.command`); library callers catch it as a `ValueError`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines()))  # reasons quoted may be longer
