"""Detects the things in a picture of a scene, and checks whether they are what the prompt asks for.

It follows GenEval (arXiv 2310.11513). Segmentation separates the things, and a small network names them. Nothing else
uses this network: no training loss, and no choice between candidates.
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
"""Hash of the shipped weights. Results with other weights are not comparable."""

SIZE = 32
"""Width and height of the network's input, in pixels."""

_BESIDE = 1.2
"""How many times farther apart two things must be along a relation than across it."""


class ThingNetwork(nn.Module):
    """Classifies a picture of one thing as one of `data.scenes.vocabulary.THINGS`."""

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
class Detection:
    """A thing that was found in a picture."""

    name: str
    """The name of a thing of `data.scenes.vocabulary.THINGS`."""
    confidence: float
    """The network's probability of that name, 0 to 1."""
    hue: str
    """The name of its main color, one of `HUES`; "" if few of its pixels are colorful."""
    center: tuple[float, float]
    """Column and row of the middle of its box, in pixels."""
    size: tuple[int, int]
    """Width and height of its box, in pixels."""


@cache
def checker() -> ThingNetwork:
    """Loads the shipped network. Raises `BadInput` if the file is missing or not the shipped one."""
    data = WEIGHTS.read_bytes() if WEIGHTS.is_file() else b""
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise BadInput(f"{WEIGHTS}: missing, or not the shipped weights; install Tessera again")
    network = ThingNetwork()
    network.load_state_dict({name: tensor.float() for name, tensor in load(data).items()})
    return network.eval()


def detect(picture: NDArray[np.uint8], network: nn.Module) -> list[Detection]:
    """Detects the things in a picture, uint8 (3, H, W); returns the largest first."""
    ground = background(picture)
    found = pieces(picture, ground)
    if not found:
        return []
    with torch.no_grad():
        probabilities = network(torch.stack([crop(picture, piece, ground) for piece in found])).softmax(-1)
    best = probabilities.max(-1)
    return [
        Detection(name=THINGS[i].name, confidence=p, hue=hue(picture, piece), center=piece.center, size=piece.size)
        for piece, p, i in zip(found, best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def crop(picture: NDArray[np.uint8], piece: Piece, ground: RGB) -> Tensor:
    """Cuts out a piece, alone on a square of the background color `ground`: float32 (3, 32, 32) in [-1, 1]."""
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
    """The hue nearest to most of the colorful pixels of a piece; "" if fewer than 20 % of its pixels are colorful."""
    rgb = picture[:, *piece.box][:, piece.mask].T.astype(np.float32)
    high, low = rgb.max(1), rgb.min(1)
    colorful = rgb[(high - low > 0.3 * high) & (high > 50)]
    if len(colorful) < 0.2 * len(rgb):
        return ""
    return [*HUES][np.bincount(nearest(colorful)).argmax()]


def expected(scene: Scene) -> str:
    """What a picture of a scene should show, as JSON for `shows`. It includes the id of the checker."""
    things = [[group.count, group.hue, group.thing.name] for group in scene.groups]
    exactly = scene.kind == "counting"
    return json.dumps({"things": things, "relation": scene.relation, "exactly": exactly, "checker": SHA256[:16]})


def shows(picture: NDArray[np.uint8], asked: str, network: nn.Module | None = None) -> bool:
    """Whether a picture, uint8 (3, H, W), shows what `asked` says.

    All things must be there in their color, and if there is a relation, it must hold between two of them. In a scene of
    the counting task, the count must be exact; in the others, more things may be there.

    Args:
        picture: the picture.
        asked: what it should show, from `expected`.
        network: names the things; by default the shipped network.
    """
    wanted, found = json.loads(asked), detect(picture, network or checker())
    named = [[one for one in found if one.name == name and color in (None, one.hue)]
             for _, color, name in wanted["things"]]  # fmt: skip
    for its, (count, _, _) in zip(named, wanted["things"], strict=True):
        if len(its) < count or (wanted["exactly"] and len(its) > count):
            return False
    relation = wanted["relation"]
    return relation is None or any(_holds(relation, one, other) for one in named[0] for other in named[1])


def _holds(relation: Relation, one: Detection, other: Detection) -> bool:
    across, down = (a - b for a, b in zip(one.center, other.center, strict=True))
    along = {"left of": -across, "right of": across, "above": -down, "below": down}[relation]
    beside = abs(down) if relation in ("left of", "right of") else abs(across)
    return along > _BESIDE * beside
