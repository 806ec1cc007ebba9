"""Measures what a prompt asked for in the picture itself: colour, skin tone, direction, count. No network involved.

All take one picture on a white ground, uint8 (3, H, W), and return one of a closed set of words.
"""

from collections.abc import Callable, Mapping
from colorsys import rgb_to_hsv

import torch
from scipy import ndimage
from torch import Tensor

# Where a hue in degrees ends, and its name; brown and black are told from them by how dark they are
_HUES = ((20, "red"), (40, "orange"), (65, "yellow"), (170, "green"), (250, "blue"), (330, "purple"), (360, "red"))
# Lightness from which a tone counts as this one: halfway between what three collections paint for neighbouring tones of
# Unicode's five (UTS 51, after Fitzpatrick)
_TONES = ((219, "light"), (187, "medium-light"), (145, "medium"), (102, "medium-dark"), (0, "dark"))


def colour(picture: Tensor) -> str:
    """The name of the median colour of what is drawn, by its hue."""
    rgb = _ink(picture).median(1).values
    if rgb.max() < 90:
        return "black"
    hue = 360 * rgb_to_hsv(*(rgb / 255).tolist())[0]
    if 5 <= hue < 40 and rgb.max() < 200:
        return "brown"
    return next(name for end, name in _HUES if hue <= end)


def skin_tone(picture: Tensor) -> str:
    """The tone by the lightness of the drawn pixels of skin's hue; outlines and white details do not count."""
    ink = _ink(picture)
    red, green, blue = ink
    skin = (red > green) & (green > blue) & (red - blue > 15) & (red > 60)
    median = (ink[:, skin] if skin.any() else ink).median(1).values
    luma = float(median @ torch.tensor([0.299, 0.587, 0.114]))  # ITU-R BT.601
    return next(name for least, name in _TONES if luma >= least)


def direction(picture: Tensor) -> str:
    """Where the shape through the middle of the picture points: `left`, `right`, `up` or `down`.

    An arrow is its own mirror image about the axis that it points along, and its head is wide. Anything else, such as
    a hand, points along its longer side, and its tip is narrow.
    """
    box = _cropped(_central_shape(picture))
    about_row, about_column = _overlap(box, box.flip(0)), _overlap(box, box.flip(1))
    arrow = max(about_row, about_column) > 0.75
    along_row = about_row > about_column if arrow else box.shape[1] >= box.shape[0]
    widths = box.sum(0 if along_row else 1)
    first, *_, last = (part.max() for part in torch.tensor_split(widths, 3))
    towards_first = bool(first > last) == arrow
    return {(True, True): "left", (True, False): "right", (False, True): "up", (False, False): "down"}[
        along_row, towards_first
    ]


def count(picture: Tensor) -> str:
    """Number of separate things, smaller specks than 1 % of the drawn area aside."""
    mask = (picture.float() - 255).abs().amax(0) > 40
    labels, number = ndimage.label(mask.numpy(), structure=[[1] * 3] * 3)
    sizes = torch.bincount(torch.from_numpy(labels).flatten().long(), minlength=number + 1)[1:]
    return str(int((sizes > 0.01 * sizes.sum()).sum()))


MEASUREMENTS: Mapping[str, Callable[[Tensor], str]] = {
    "colour": colour, "skin tone": skin_tone, "direction": direction, "count": count,
}  # fmt: skip


def _ink(picture: Tensor) -> Tensor:
    """The pixels that are not the ground, (3, N); all of them where there are none."""
    pixels = picture.float().flatten(1)
    drawn = pixels.amin(0) < 235
    return pixels[:, drawn] if drawn.any() else pixels


def _central_shape(picture: Tensor) -> Tensor:
    """The connected region of the colour in the middle of the picture: bool (H, W)."""
    height, width = picture.shape[1:]
    middle = picture[:, height // 2 - 2 : height // 2 + 2, width // 2 - 2 : width // 2 + 2].float()
    inner = middle.flatten(1).median(1).values
    alike = (picture.float() - inner.view(3, 1, 1)).abs().amax(0) < 70
    labels, _ = ndimage.label(alike.numpy())
    region = torch.from_numpy(labels)
    seen = region[height // 2 - 2 : height // 2 + 2, width // 2 - 2 : width // 2 + 2].flatten()
    seen = seen[seen > 0]
    return region == seen.mode().values if len(seen) else torch.ones_like(alike)


def _cropped(mask: Tensor) -> Tensor:
    """The smallest box around what is true."""
    rows, columns = mask.nonzero(as_tuple=True)
    return mask[int(rows.min()) : int(rows.max()) + 1, int(columns.min()) : int(columns.max()) + 1]


def _overlap(a: Tensor, b: Tensor) -> float:
    return float((a & b).sum() / (a | b).sum())
