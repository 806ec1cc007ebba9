"""Says what a picture of a scene shows, and whether that is what was asked for, as GenEval does (arXiv 2310.11513).

Things are told apart by segmentation and named by a small network that nothing else here uses: neither a loss nor the
choice among candidates has met it.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load
from torch import Tensor, nn

from data.colors import HUES, nearest
from data.scenes.scene import Scene
from data.scenes.vocabulary import THINGS, Relation
from evaluation.segment import RGB, Piece, background, pieces
from training.errors import BadInput

WEIGHTS = Path(__file__).with_name("checker.safetensors")
SHA256 = "aaa3fa81319131d138b41be0e34c53bc12cf003018916bc0378f3d6419670d3c"
"""Of the weights that are shipped: figures of others are not comparable."""

SIZE = 32
"""Width and height of what the network looks at."""

_BESIDE = 1.2
"""How much farther apart two things must be along a relation than across it."""


class ThingNetwork(nn.Module):
    """Names a thing, of `data.scenes.vocabulary.THINGS`, from a picture of it alone."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 3 * width, 4 * width)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(4 * widths[-1], len(THINGS)))

    def forward(self, crops: Tensor) -> Tensor:
        """(B, 3, 32, 32) in [-1, 1] -> logits (B, things)."""
        return self.layers(crops)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A thing that was found in a picture."""

    name: str
    """Of the thing."""
    sure: float
    """The network's probability, 0 to 1."""
    hue: str
    """The name of its usual colour, one of `HUES`; "" where it has little of any."""
    center: tuple[float, float]
    """Column and row, in pixels."""
    size: tuple[int, int]
    """Width and height, in pixels."""


@cache
def checker() -> ThingNetwork:
    """The shipped network. Raises `BadInput` where the file is not the shipped one."""
    data = WEIGHTS.read_bytes() if WEIGHTS.is_file() else b""
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise BadInput(f"{WEIGHTS}: not the weights that are shipped; install Tessera again")
    network = ThingNetwork()
    network.load_state_dict({name: tensor.float() for name, tensor in load(data).items()})
    return network.eval()


def seen(picture: NDArray[np.uint8], network: nn.Module) -> list[Seen]:
    """The things in a picture uint8 (3, H, W), from the largest on."""
    ground = background(picture)
    found = pieces(picture, ground)
    if not found:
        return []
    with torch.no_grad():
        chances = network(torch.stack([crop(picture, piece, ground) for piece in found])).softmax(-1)
    best = chances.max(-1)
    return [
        Seen(name=THINGS[which].name, sure=sure, hue=hue(picture, piece), center=piece.center, size=piece.size)
        for piece, sure, which in zip(found, best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def crop(picture: NDArray[np.uint8], piece: Piece, ground: RGB) -> Tensor:
    """What the network sees of a piece: alone on its ground, square, float (3, 32, 32) in [-1, 1]."""
    inside = np.where(piece.mask, picture[:, *piece.box], np.array(ground, np.uint8)[:, None, None])
    width, height = piece.size
    side = max(width, height)
    square = np.broadcast_to(np.array(ground, np.float32)[:, None, None], (3, side, side)).copy()
    top, left = (side - height) // 2, (side - width) // 2
    square[:, top : top + height, left : left + width] = inside
    scaled = nn.functional.interpolate(
        torch.from_numpy(square)[None], (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False
    )
    return scaled[0] / 127.5 - 1


def hue(picture: NDArray[np.uint8], piece: Piece) -> str:
    """The colour that most of the colorful pixels of a piece are nearest to."""
    rgb = picture[:, *piece.box][:, piece.mask].T.astype(np.float32)
    high, low = rgb.max(1), rgb.min(1)
    colorful = rgb[(high - low > 0.3 * high) & (high > 50)]
    if len(colorful) < 0.2 * len(rgb):
        return ""
    return [*HUES][np.bincount(nearest(colorful)).argmax()]


def expected(scene: Scene) -> str:
    """What a picture of a scene should show, as `shows` reads it; with the checker, as another may say otherwise."""
    things = [[group.count, group.hue, group.thing.name] for group in scene.groups]
    exactly = scene.kind == "counting"
    return json.dumps({"things": things, "relation": scene.relation, "exactly": exactly, "checker": SHA256[:16]})


def shows(picture: NDArray[np.uint8], asked: str, network: nn.Module | None = None) -> bool:
    """Whether a picture uint8 (3, H, W) shows what `expected` says; by the shipped network, if no other is given.

    All things must be there, in their color, and a relation must hold between two of them. Where a number is asked
    for there may be neither more nor fewer; elsewhere others may be there too.
    """
    wanted, found = json.loads(asked), seen(picture, network or checker())
    named = [[one for one in found if one.name == name and color in (None, one.hue)]
             for _, color, name in wanted["things"]]  # fmt: skip
    for its, (count, _, _) in zip(named, wanted["things"], strict=True):
        if len(its) < count or (wanted["exactly"] and len(its) > count):
            return False
    relation = wanted["relation"]
    return relation is None or any(_holds(relation, one, other) for one in named[0] for other in named[1])


def _holds(relation: Relation, one: Seen, other: Seen) -> bool:
    across, down = (a - b for a, b in zip(one.center, other.center, strict=True))
    along = {"left of": -across, "right of": across, "above": -down, "below": down}[relation]
    beside = abs(down) if relation in ("left of", "right of") else abs(across)
    return along > _BESIDE * beside
