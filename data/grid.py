"""Labelled grids of pictures."""

import textwrap
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_MARGIN = 8
_INK, _PAPER = (40, 40, 40), (255, 255, 255)


def grid(images: Sequence[Tensor], labels: Sequence[str] = (), *, columns: int, cell: int = 128) -> Image.Image:
    """Lays pictures out in rows, each resized to `cell` pixels wide, with its label below.

    Args:
        images: uint8 (3, H, W) each. Aspect ratios are kept.
        labels: one for each picture, or none at all.
        columns: pictures per row.
        cell: width of a picture in the grid, in pixels.
    """
    font = ImageFont.load_default(size=11)
    lines = [textwrap.wrap(label, width=max(8, cell // 6), max_lines=3, placeholder=" ...") for label in labels]
    caption = 14 * max((len(wrapped) for wrapped in lines), default=0)
    step_x, step_y = cell + _MARGIN, cell + caption + _MARGIN
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * step_x + _MARGIN, rows * step_y + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, image in enumerate(images):
        x, y = _MARGIN + i % columns * step_x, _MARGIN + i // columns * step_y
        height = round(cell * image.shape[1] / image.shape[2])
        sheet.paste(to_pil(image).resize((cell, height), Image.Resampling.LANCZOS), (x, y))
        if labels:
            draw.multiline_text((x, y + cell + 1), "\n".join(lines[i]), fill=_INK, font=font, spacing=2)
    return sheet


def to_pil(image: Tensor) -> Image.Image:
    """uint8 (3, H, W) -> PIL image."""
    return Image.fromarray(image.permute(1, 2, 0).cpu().contiguous().numpy())


def from_pil(picture: Image.Image) -> Tensor:
    """RGB PIL image -> uint8 (3, H, W)."""
    width, height = picture.size
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(height, width, 3).permute(2, 0, 1)
