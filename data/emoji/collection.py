"""The drawings of an npm package, matched with the concepts they show and kept in one zip file per style."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from data.emoji.aliases import MISDRAWN
from data.emoji.art import rasterize, render_svg
from data.emoji.matching import matched, tones_set_right
from data.emoji.npm import members
from data.emoji.styles import COLLECTED
from data.emoji.table import emojis
from data.picture import cut_out, fit
from data.store import Unreadable
from training.errors import BadInput
from training.files import atomic

VERSION = 1
"""Increase it when the matching of drawings with concepts changes, so that packages are read again."""

_LEFT_OUT = "left-out.json"


class Collection:
    """The drawings of one style from npm. A pickled copy holds a file name and no drawings."""

    def __init__(self, style: str, cache: Path) -> None:
        """Fetches the package, unless that was done before. Raises `BadInput` if it cannot be fetched."""
        package = COLLECTED[style]
        self.recipe = f"{package.name} {package.version} matched {VERSION}"
        self.file = kept(style, cache)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.file.with_name(f".{self.file.name}.lock")):
            if not self.file.exists():
                _collect(style, self.file)
        names = [Path(name) for name in _opened(self.file).namelist() if name != _LEFT_OUT]
        self.files: Mapping[str, str] = {name.stem: name.name for name in names}
        """Names of drawings in the zip file, by the code points of their concepts."""
        self.left_out: Mapping[str, str] = json.loads(_opened(self.file).read(_LEFT_OUT))
        """Drawings of the package that are not used, as {name in the package: reason}."""

    def render(self, codes: str, size: int) -> NDArray[np.uint8]:
        """The concept with these code points on white, uint8 (3, size, size). Raises `Unreadable`."""
        name = self.files[codes]
        data = _opened(self.file).read(name)
        try:
            picture = render_svg(data.decode(), size) if name.endswith(".svg") else fit(data, size)
        except ValueError as error:
            raise Unreadable(f"cannot be rendered: {error}") from None
        if picture.min() > 240:
            raise Unreadable("renders as nothing but white")
        return picture

    def cut_out(self, codes: str, size: int) -> Image.Image:
        """The concept without a background, RGBA, at most `size` pixels on a side. Raises `Unreadable`."""
        name = self.files[codes]
        data = _opened(self.file).read(name)
        if not name.endswith(".svg"):
            return cut_out(data, size)
        try:
            return rasterize(data.decode(), size)
        except ValueError as error:
            raise Unreadable(f"cannot be rendered: {error}") from None


def kept(style: str, cache: Path) -> Path:
    """The zip file of a style's drawings, which may not exist yet."""
    return cache / "emoji" / f"{style}-{COLLECTED[style].version}-{VERSION}.zip"


@cache
def _opened(file: Path) -> ZipFile:
    try:
        return ZipFile(file)
    except BadZipFile:
        raise BadInput(f"{file}: is damaged; delete it to have it fetched again") from None


def _collect(style: str, file: Path) -> None:
    """Writes the zip file: the first drawing of each known concept, and why the others are left out."""
    known = {emoji.codes for emoji in emojis()}
    names: dict[str, str] = {}
    left_out: dict[str, str] = {}
    with atomic(file) as temporary, ZipFile(temporary, "w", ZIP_DEFLATED) as kept:
        for name, codes, suffix, data in _drawings(style):
            if codes not in known:
                left_out[name] = "shows none of Unicode's emoji" if codes else "no emoji is called so"
            elif why := MISDRAWN.get(f"{codes}/{style}"):
                left_out[name] = why
            elif names.setdefault(codes, name) != name:
                left_out[name] = f"shows what {names[codes]} shows"
            else:
                kept.writestr(f"{codes}{suffix}", data)
        kept.writestr(_LEFT_OUT, json.dumps(left_out))


def _drawings(style: str) -> Iterator[tuple[str, str | None, str, bytes]]:
    """Yields name, code points (None if no concept matches), suffix and content of each drawing in a package."""
    for path, data in members(COLLECTED[style]):
        if path.name == "icons.json":
            for names, svg in _icons(json.loads(data)):
                yield names[0], matched(names, style), ".svg", svg.encode()
        elif path.suffix == ".webp":
            yield path.name, tones_set_right(path.stem), path.suffix, data


def _icons(collection: Mapping[str, Any]) -> Iterator[tuple[Sequence[str], str]]:
    """Yields the names, main name first, and the SVG of each drawing in an Iconify collection."""
    names = {name: [name] for name in collection["icons"]}
    for alias, entry in collection.get("aliases", {}).items():
        if entry.keys() == {"parent"} and entry["parent"] in names:  # others are mirrored
            names[entry["parent"]].append(alias)
    for name, icon in collection["icons"].items():
        width, height = (icon.get(side, collection.get(side, 16)) for side in ("width", "height"))
        view = f'viewBox="0 0 {width} {height}"'
        yield names[name], f'<svg xmlns="http://www.w3.org/2000/svg" {view}>{icon["body"]}</svg>'
