"""The hands that emoji are drawn in, and where their drawings come from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from training.errors import BadInput

ORIGINALS = ("twemoji", "openmoji", "noto")
"""Hands from pip packages, each with every concept: what the shipped models know and the evaluation asks for."""

SOURCE = f"emoji:{','.join(ORIGINALS)}"
"""These three as a source of pictures."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """Drawings of one hand in an npm package, which has no program of ours in it and whose own is never run."""

    name: str
    """As npm knows it."""
    version: str
    integrity: str
    """Subresource integrity of the tarball, as `npm view NAME dist.integrity` says it."""
    family: str
    """Hands of one family draw nearly the same: what is held out of one is held out of all."""
    credit: str
    """The name of the art, whose it is, and its licence."""


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
"""Hands from npm packages, each with the concepts that its time knew."""

STYLES = (*ORIGINALS, *COLLECTED)

_CREDITS = {
    "twemoji": "Twemoji (c) Twitter, Inc and other contributors, CC-BY 4.0",
    "openmoji": "OpenMoji, CC BY-SA 4.0",
    "noto": "Noto Emoji (c) Google, OFL 1.1",
    **{style: package.credit for style, package in COLLECTED.items()},
}


def family_of(style: str) -> str:
    """The hands that draw nearly as this one does, by one name."""
    return COLLECTED[style].family if style in COLLECTED else style


def chosen(source: str) -> Sequence[str] | None:
    """The hands that `emoji:noto,fluent-flat` names, in the order of `STYLES`; None for `emoji`, which is all that can
    be had. Raises `BadInput`."""
    _, colon, names = source.partition(":")
    if not colon:
        return None
    wanted = names.split(",")
    if wrong := [name for name in wanted if name not in STYLES]:
        raise BadInput(f"{source}: no hand {wrong[0]!r}; there are {', '.join(STYLES)}")
    return [style for style in STYLES if style in wanted]


def credits(sources: Iterable[str]) -> str:
    """Whose art these sources of emoji are, with its licences: `"OpenMoji, CC BY-SA 4.0; ..."`."""
    wanted = {style for source in sources for style in chosen(source) or STYLES}
    return "; ".join(dict.fromkeys(its for style, its in _CREDITS.items() if style in wanted))
