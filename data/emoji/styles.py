"""The styles of the emoji corpus, and the packages that their drawings come from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from training.errors import BadInput

ORIGINALS = ("twemoji", "openmoji", "noto")
"""Styles from pip packages, each with all concepts. The shipped models know these, and the evaluation uses them."""

SOURCE = f"emoji:{','.join(ORIGINALS)}"
"""These three as a source of pictures."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """An npm package with the drawings of one style. Its files are data; none of its code is run."""

    name: str
    """Its name in npm."""
    version: str
    integrity: str
    """Subresource integrity of the tarball, as printed by `npm view NAME dist.integrity`."""
    family: str
    """Styles of one family look nearly the same. What is held out of one is held out of all."""
    credit: str
    """Name, owner and licence of the art."""


COLLECTED: Mapping[str, Package] = {
    "noto-blob": Package(
        name="@iconify-json/noto-v1",
        version="1.2.5",
        integrity="sha512-/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
        family="noto",
        credit="Noto Emoji of 2017 (c) Google, Apache-2.0",
    ),
    "fluent-flat": Package(
        name="@iconify-json/fluent-emoji-flat",
        version="1.2.6",
        integrity="sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        family="fluent",
        credit="Fluent Emoji (c) Microsoft, MIT",
    ),
    "fluent-color": Package(
        name="@iconify-json/fluent-emoji",
        version="1.2.7",
        integrity="sha512-D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
        family="fluent",
        credit="Fluent Emoji (c) Microsoft, MIT",
    ),
    "fluent-3d": Package(
        name="@lobehub/fluent-emoji-3d",
        version="1.1.0",
        integrity="sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
        family="fluent",
        credit="Fluent Emoji (c) Microsoft, MIT",
    ),
    "emojione": Package(
        name="@iconify-json/emojione",
        version="1.2.3",
        integrity="sha512-T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
        family="emojione",
        credit="EmojiOne 2 and EmojiTwo, CC BY 4.0",
    ),
    "emojione-v1": Package(
        name="@iconify-json/emojione-v1",
        version="1.2.3",
        integrity="sha512-UjI2VQEXVtGlPBvQuxEizro7QCgBcJDOYwKUupquvvZ8UV4xOlvm45IU82JYWegiAWLerY79gFLMZ26U6Ms+ww==",
        family="emojione",
        credit="EmojiOne 1, CC BY-SA 4.0",
    ),
    "firefox": Package(
        name="@iconify-json/fxemoji",
        version="1.2.2",
        integrity="sha512-UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
        family="firefox",
        credit="Firefox OS Emoji (c) Mozilla, CC BY 4.0",
    ),
}
"""Styles from npm packages, each with the concepts that existed when it was drawn."""

STYLES = (*ORIGINALS, *COLLECTED)

_CREDITS = {
    "twemoji": "Twemoji (c) Twitter, Inc and other contributors, CC-BY 4.0",
    "openmoji": "OpenMoji, CC BY-SA 4.0",
    "noto": "Noto Emoji (c) Google, OFL 1.1",
    **{style: package.credit for style, package in COLLECTED.items()},
}


def family_of(style: str) -> str:
    """The name of the style's family: the styles that look nearly the same."""
    return COLLECTED[style].family if style in COLLECTED else style


def chosen(source: str) -> Sequence[str] | None:
    """The styles that `emoji:noto,fluent-flat` names, in the order of `STYLES`; None for `emoji`, all that can be
    fetched.

    Raises:
        BadInput: there is no such style.
    """
    _, colon, names = source.partition(":")
    if not colon:
        return None
    wanted = names.split(",")
    if wrong := [name for name in wanted if name not in STYLES]:
        raise BadInput(f"{source}: no style {wrong[0]!r}; there are {', '.join(STYLES)}")
    return [style for style in STYLES if style in wanted]


def credits(sources: Iterable[str]) -> str:
    """Credits and licences of the art in these sources of emoji: `"OpenMoji, CC BY-SA 4.0; ..."`."""
    wanted = {style for source in sources for style in chosen(source) or STYLES}
    return "; ".join(dict.fromkeys(credit for style, credit in _CREDITS.items() if style in wanted))
