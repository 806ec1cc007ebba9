"""Markdown around text from untrusted sources. The text is escaped, so any markup in it shows as text."""

import re
from collections.abc import Iterable, Sequence

from training.errors import printable

# Characters that could begin or end a table cell, a comment, a tag, code, a link, an image, emphasis or strikethrough.
_MARKUP = str.maketrans({character: f"&#{ord(character)};" for character in "|`\\[]*~"} | {"<": "&lt;", ">": "&gt;"})
# Underscores that could emphasise: those inside a word cannot, so `kid_lite1` stays readable in the source.
_EMPHASIS = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
# What GitHub finds in the text itself: mentions, mathematics and addresses. There an entity is no escape, as it is
# replaced first; but a tag parts the text.
_FOUND = re.compile(r"[@$]|(?:(?<=http)|(?<=https)|(?<=ftp)):(?=//)|(?<=www)\.", re.IGNORECASE)


def plain(text: str) -> str:
    """`text` on one line, with all markup escaped, also what GitHub adds to Markdown."""
    escaped = printable(" ".join(text.replace("&", "&amp;").split())).translate(_MARKUP)
    return _FOUND.sub(r"<span>\g<0></span>", _EMPHASIS.sub("&#95;", escaped))


def tabulated(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose cells are escaped. It does not end in a newline."""
    lines = [[plain(cell) for cell in row] for row in (head, *rows)]
    lines.insert(1, ["---"] * len(head))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def fenced(text: str) -> str:
    """A Markdown code block. Its fence is longer than any run of backticks in `text`."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"
