"""Reports what is in a source of captioned pictures, and makes a contact sheet.

python -m data.inspect photos/ --out inspected/
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import ClassVar

from PIL import Image

from data.captioned import CaptionedImages, RenderedImages
from data.grid import grid
from data.source import open_source
from data.splits import fraction
from training.cli import command
from training.errors import printable
from training.files import atomic

_COLUMNS, _ROWS = 8, 6


@dataclass(kw_only=True)
class InspectOptions:
    """Counts the pictures of a source, measures their captions and makes a contact sheet of some of them."""

    positional: ClassVar = ("source",)

    source: str
    """`emoji`, `scenes`, or your own pictures: a folder, a parquet or tar file, `labels:FOLDER`, or
    `hf://datasets/owner/name`. Several are joined by `+`."""
    out: Path = Path("inspected")
    """Folder for the contact sheet."""
    size: int = 64
    """Width and height to render the pictures at, in pixels."""
    split: str | None = None
    """Only this split of the source."""
    cache: Path | None = None
    """Folder for prepared pictures; by default the user's cache folder."""
    strict: bool = False
    """Stop at an unreadable picture. Otherwise it is skipped and listed."""
    verify: bool = False
    """Read all rendered pictures in the cache, and stop if any is damaged."""


def main(options: InspectOptions) -> None:
    """Prints the report and writes the contact sheet."""
    pictures = open_source(
        options.source, size=options.size, split=options.split, cache=options.cache, strict=options.strict
    )
    if options.verify:
        pictures.verify()
    for line in report(pictures):
        print(printable(line))  # it quotes names from the source
    path = options.out / "contact-sheet.png"
    with atomic(path) as temporary:
        contact_sheet(pictures).save(temporary, format="PNG")
    print(f"contact sheet      {path}")


def report(pictures: CaptionedImages) -> Iterator[str]:
    """The lines of the report."""
    captions = [caption for i in range(len(pictures)) for caption in pictures.captions(i)]
    yield f"source             {pictures.name}, {len(pictures):,} pictures, fingerprint {pictures.fingerprint}"
    for split, count in Counter(part.corpus.splits[at] for part in pictures.parts for at in part.positions).items():
        yield f"{split:18} {count:,} pictures"
    for part in pictures.parts:
        yield f"originals          {_originals(part)}"
    yield f"captions           {len(captions):,}, {len(captions) / len(pictures):.3g} a picture"
    yield f"words              {_spread(len(caption.split()) for caption in captions)}"
    yield f"characters         {_spread(map(len, captions))}"
    missing = {key: why for part in pictures.parts
               for key, why in {**part.corpus.left_out, **part.skipped, **part.excluded}.items()}  # fmt: skip
    yield f"cannot be used     {len(missing):,}"
    for key, why in missing.items():
        yield f"    {key}: {why}"
    for part in pictures.parts:
        yield f"rendered in        {part.folder}"


def contact_sheet(pictures: CaptionedImages) -> Image.Image:
    """48 pictures at most, with their first captions, chosen by a hash of their keys."""
    some = sorted(range(len(pictures)), key=lambda i: fraction(pictures.key(i)))[: _COLUMNS * _ROWS]
    return grid([pictures[i] for i in some], [pictures.captions(i)[0] for i in some], columns=_COLUMNS)


def _originals(pictures: RenderedImages) -> str:
    sizes = [size for position in pictures.positions if (size := pictures.corpus.original_size(position))]
    if not sizes:
        return "vector art, without a size"
    widths, heights = zip(*sizes, strict=True)
    enlarged = sum(min(size) < pictures.size for size in sizes)
    return f"width {_spread(widths)}; height {_spread(heights)}; {enlarged:,} smaller than {pictures.size} px"


def _spread(values: Iterable[int]) -> str:
    ordered = sorted(values)
    return f"{ordered[0]:,} to {ordered[-1]:,}, median {median(ordered):,.4g}"


if __name__ == "__main__":
    command(main, InspectOptions)
