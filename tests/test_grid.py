import numpy as np
import pytest
import torch
from PIL import Image

from data.grid import from_pil, grid, to_pil

WHITE = (255, 255, 255)


def colour(*rgb: int, height: int = 8, width: int = 8) -> torch.Tensor:
    return torch.tensor(rgb, dtype=torch.uint8)[:, None, None].expand(3, height, width)


RED, GREEN, BLUE = colour(255, 0, 0), colour(0, 255, 0), colour(0, 0, 255)


def test_pil_round_trip() -> None:
    image = torch.randint(0, 256, (3, 5, 7), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    picture = to_pil(image)
    assert picture.size == (7, 5)
    assert picture.getpixel((2, 1)) == tuple(image[:, 1, 2].tolist())
    assert torch.equal(from_pil(picture), image)
    assert np.array_equal(np.asarray(picture), image.permute(1, 2, 0))


def test_pictures_are_placed_row_by_row() -> None:
    sheet = grid([RED, GREEN, BLUE], columns=2, cell=20)
    assert sheet.size == (2 * 28 + 8, 2 * 28 + 8)
    assert sheet.getpixel((18, 18)) == (255, 0, 0)
    assert sheet.getpixel((46, 18)) == (0, 255, 0)
    assert sheet.getpixel((18, 46)) == (0, 0, 255)
    assert sheet.getpixel((46, 46)) == WHITE
    assert sheet.getpixel((3, 3)) == WHITE


def test_labels_are_below_their_pictures() -> None:
    plain = grid([RED, GREEN], columns=2, cell=100)
    labelled = grid(
        [RED, GREEN], ["", "a caption\nof two lines that is far too long for its picture " * 5], columns=2, cell=100
    )
    assert labelled.width == plain.width
    assert labelled.height == plain.height + 3 * 14
    pixels = np.asarray(labelled)
    assert (pixels[110:, :112] == 255).all()  # the empty label
    assert (pixels[110:, 112:] < 128).any()
    assert labelled.getpixel((150, 50)) == (0, 255, 0)


@pytest.mark.parametrize("label", ["🦊 狐 ثعلب", "", "\x00\t", "x" * 500])
def test_any_label_can_be_rendered(label: str) -> None:
    assert isinstance(grid([RED], [label], columns=1), Image.Image)


def test_a_shorter_picture_keeps_its_shape() -> None:
    sheet = grid([colour(255, 0, 0, height=4), GREEN], columns=2, cell=40)
    assert sheet.getpixel((28, 8 + 18)) == (255, 0, 0)
    assert sheet.getpixel((28, 8 + 22)) == WHITE
    assert sheet.getpixel((76, 8 + 38)) == (0, 255, 0)


def test_no_pictures_make_an_empty_grid() -> None:
    assert grid([], columns=3).height == 8
