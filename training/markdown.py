"""Text that somebody else wrote, in Markdown that is passed on: it is read as text, whatever markup it holds."""

import re
from collections.abc import Iterable, Sequence

from training.errors import printable

# What could begin or end a cell, a comment, a tag, code, a link or a picture.
_MARKUP = str.maketrans({character: f"&#{ord(character)};" for character in "|`\\[]*"} | {"<": "&lt;", ">": "&gt;"})


def plain(text: str) -> str:
    """One line in which nothing is markup."""
    return printable(" ".join(text.replace("&", "&amp;").split())).translate(_MARKUP)


def tabulated(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain cells, without a newline at its end."""
    lines = [[plain(cell) for cell in row] for row in (head, *rows)]
    lines.insert(1, ["---"] * len(head))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def fenced(text: str) -> str:
    """A block of code, fenced by more backticks than `text` has in a row."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"
