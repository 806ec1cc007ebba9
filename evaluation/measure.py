"""Measure an attribute in the picture itself, without a network: colour, skin tone, direction or count.

All functions take one picture on a white background, uint8 (3, H, W), and return a word. The foreground is all that is
not nearly white.
"""

from collections.abc import Callable, Mapping
from colorsys import rgb_to_hsv

import torch
from torch import Tensor

from evaluation.checker import shows
from training.errors import needing

# Each threshold between two words below makes the fewest errors on emoji that no attribute prompt asks for; where a
# range of values does, it is the middle of that range. The emoji are those of `validation` for skin tones, and of
# `validation` and `train` for colours. A test derives the thresholds again. All other numbers are round ones; real
# pictures score much the same with others.

# The end of each hue, in degrees, and its name
_HUES = ((17, "red"), (39, "orange"), (61, "yellow"), (151.5, "green"), (247, "blue"), (325, "purple"), (360, "red"))
# A colour is black if its largest channel is below _BLACK; brown if that is below _BROWN and its hue in _BROWN_HUES
_BLACK, _BROWN, _BROWN_HUES = 103, 195, (3, 44)
# The least lightness of each of Unicode's five skin tones (UTS 51, after Fitzpatrick)
_TONES = ((215, "light"), (180, "medium-light"), (138, "medium"), (95.5, "medium-dark"), (0, "dark"))


def colour(picture: Tensor) -> str:
    """Name the median colour of the foreground by its hue."""
    hue, brightest = hue_and_brightest(picture)
    if brightest < _BLACK:
        return "black"
    if _BROWN_HUES[0] <= hue < _BROWN_HUES[1] and brightest < _BROWN:
        return "brown"
    return next(name for end, name in _HUES if hue <= end)


def hue_and_brightest(picture: Tensor) -> tuple[float, float]:
    """Hue in degrees, and the largest channel, 0..255, of the median colour of the foreground."""
    rgb = _foreground(picture).median(1).values
    return 360 * rgb_to_hsv(*(rgb / 255).tolist())[0], float(rgb.max())


def skin_tone(picture: Tensor) -> str:
    """Name the skin tone by its lightness: `light`, `medium-light`, `medium`, `medium-dark` or `dark`."""
    luma = lightness_of_skin(picture)
    return next(name for least, name in _TONES if luma >= least)


def lightness_of_skin(picture: Tensor) -> float:
    """Luma of the median colour of the foreground pixels with a hue of skin, 0..255; of all if there are none.

    This leaves out outlines and white details.
    """
    pixels = _foreground(picture)
    red, green, blue = pixels
    skin = (red > green) & (green > blue) & (red - blue > 15) & (red > 60)
    median = (pixels[:, skin] if skin.any() else pixels).median(1).values
    return float(median @ torch.tensor([0.299, 0.587, 0.114]))  # ITU-R BT.601


def direction(picture: Tensor) -> str:
    """Where the shape in the middle of the picture points: `left`, `right`, `up` or `down`.

    An arrow is symmetric about the axis that it points along, and its head is its wide end. Any other shape, such as a
    hand, points along its longer side, and its tip is its narrow end.
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
    """Number of separate regions of the foreground, without those smaller than 1 % of it."""
    with needing("eval"):
        from scipy import ndimage
    mask = (picture.float() - 255).abs().amax(0) > 40
    labels, number = ndimage.label(mask.numpy(), structure=[[1] * 3] * 3)
    sizes = torch.bincount(torch.from_numpy(labels).flatten().long(), minlength=number + 1)[1:]
    return str(int((sizes > 0.01 * sizes.sum()).sum()))


def height(picture: Tensor) -> str:
    """Height of the picture in eighths of its width."""
    return str(round(8 * picture.shape[1] / picture.shape[2]))


MEASUREMENTS: Mapping[str, Callable[[Tensor], str]] = {
    "colour": colour, "skin tone": skin_tone, "direction": direction, "count": count, "height": height,
}  # fmt: skip


def is_right(attribute: str, expected: str, picture: Tensor) -> bool:
    """Whether the picture, uint8 (3, H, W), has the `expected` attribute: one of `MEASUREMENTS`, or `scene`."""
    if attribute == "scene":
        return shows(picture.numpy(), expected)
    return MEASUREMENTS[attribute](picture) == expected


def _foreground(picture: Tensor) -> Tensor:
    """The pixels that are not nearly white, (3, N); all pixels if every one is."""
    pixels = picture.float().flatten(1)
    foreground = pixels.amin(0) < 235
    return pixels[:, foreground] if foreground.any() else pixels


def _central_shape(picture: Tensor) -> Tensor:
    """The connected region that has the colour of the middle of the picture: bool (H, W)."""
    with needing("eval"):
        from scipy import ndimage
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
    """The part of a mask inside the bounding box of its True values."""
    rows, columns = mask.nonzero(as_tuple=True)
    return mask[int(rows.min()) : int(rows.max()) + 1, int(columns.min()) : int(columns.max()) + 1]


def _overlap(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two masks."""
    return float((a & b).sum() / (a | b).sum())
