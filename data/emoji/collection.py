"""Drawings from npm packages, kept in one file a hand, by the concept that each shows."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from data.emoji.aliases import MISDRAWN
from data.emoji.art import render_svg
from data.emoji.matching import matched, tones_set_right
from data.emoji.npm import members
from data.emoji.styles import COLLECTED
from data.emoji.table import emojis
from data.picture import fit
from data.store import Unreadable
from training.errors import BadInput
from training.files import atomic

VERSION = 1
"""Raise it when drawings are matched with other concepts, so that packages are read again."""

_LEFT_OUT = "left-out.json"


class Collection:
    """What one hand from npm has drawn. A pickled copy carries a file name and no drawings."""

    def __init__(self, style: str, cache: Path) -> None:
        """Fetches the package unless that was done before. Raises `BadInput` where it cannot be had."""
        package = COLLECTED[style]
        self.recipe = f"{package.name} {package.version} matched {VERSION}"
        self.file = kept(style, cache)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.file.with_name(f".{self.file.name}.lock")):
            if not self.file.exists():
                _collect(style, self.file)
        names = [Path(name) for name in _opened(self.file).namelist() if name != _LEFT_OUT]
        self.files: Mapping[str, str] = {name.stem: name.name for name in names}
        """The drawing's name in the file, by the code points of the concept."""
        self.left_out: Mapping[str, str] = json.loads(_opened(self.file).read(_LEFT_OUT))
        """Why a drawing of the package is not used, by its name there."""

    def render(self, codes: str, size: int) -> NDArray[np.uint8]:
        """The concept's drawing on white, uint8 (3, size, size). Raises `Unreadable`."""
        name = self.files[codes]
        data = _opened(self.file).read(name)
        try:
            picture = render_svg(data.decode(), size) if name.endswith(".svg") else fit(data, size)
        except ValueError as error:
            raise Unreadable(f"cannot be drawn: {error}") from None
        if picture.min() > 240:
            raise Unreadable("is drawn as nothing but white")
        return picture


def kept(style: str, cache: Path) -> Path:
    """Where the drawings of a hand are, once they were fetched."""
    return cache / "emoji" / f"{style}-{COLLECTED[style].version}-{VERSION}.zip"


@cache
def _opened(file: Path) -> ZipFile:
    try:
        return ZipFile(file)
    except BadZipFile:
        raise BadInput(f"{file}: is damaged; delete it to have it made again") from None


def _collect(style: str, file: Path) -> None:
    """Writes the drawings of a package whose concepts are known, the first one of each, and why others are left."""
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
    """Name, code points where they are known, kind and contents of each drawing in a package."""
    for path, data in members(COLLECTED[style]):
        if path.name == "icons.json":
            for names, svg in _icons(json.loads(data)):
                yield names[0], matched(names, style), ".svg", svg.encode()
        elif path.suffix == ".webp":
            yield path.name, tones_set_right(path.stem), path.suffix, data


def _icons(collection: Mapping[str, Any]) -> Iterator[tuple[Sequence[str], str]]:
    """The names, its own one first, and the SVG of each drawing in Iconify's JSON."""
    names = {name: [name] for name in collection["icons"]}
    for alias, its in collection.get("aliases", {}).items():
        if its.keys() == {"parent"} and its["parent"] in names:  # others are mirrored
            names[its["parent"]].append(alias)
    for name, icon in collection["icons"].items():
        width, height = (icon.get(side, collection.get(side, 16)) for side in ("width", "height"))
        view = f'viewBox="0 0 {width} {height}"'
        yield names[name], f'<svg xmlns="http://www.w3.org/2000/svg" {view}>{icon["body"]}</svg>'
