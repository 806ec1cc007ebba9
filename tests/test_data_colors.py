"""Names of the colors of pictures."""

import numpy as np
import pytest

from data.colors import HUES, colors_of, nearest, oklab
from data.emoji.names import colored_captions


def picture(*areas: tuple[slice, tuple[int, int, int]]) -> np.ndarray:
    """A white square in which some columns, below a margin, have a color."""
    made = np.full((3, 20, 20), 255, np.uint8)
    for columns, color in areas:
        made[:, 2:18, columns] = np.array(color, np.uint8)[:, None, None]
    return made


def test_oklab_of_known_colors() -> None:
    """White, and the primaries, with the values that the author of Oklab gives."""
    expected = [[1, 0, 0], [0.62796, 0.22486, 0.12585], [0.86644, -0.23389, 0.17950], [0.45201, -0.03246, -0.31153]]
    colors = np.array([[255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.float32)
    np.testing.assert_allclose(oklab(colors), expected, atol=1e-4)


def test_each_hue_is_nearest_to_itself() -> None:
    assert [[*HUES][i] for i in nearest(np.array([*HUES.values()], np.float32))] == [*HUES]


@pytest.mark.parametrize(
    ("areas", "expected"),
    [
        ([], ()),
        ([(slice(2, 12), (220, 30, 30))], ("red",)),
        ([(slice(2, 12), (250, 140, 20)), (slice(12, 18), (40, 100, 220))], ("orange", "blue")),
        ([(slice(2, 16), (30, 160, 70)), (slice(16, 18), (250, 210, 50))], ("green",)),  # too little yellow
        ([(slice(2, 4), (0, 0, 0)), (slice(4, 12), (250, 210, 50))], ("yellow",)),  # an outline
        ([(slice(2, 12), (0, 0, 0)), (slice(12, 18), (120, 120, 120))], ("black", "gray")),
        ([(slice(4 * i, 4 * i + 4), color) for i, color in enumerate([*HUES.values()][:5])], ()),  # too many
    ],
)
def test_main_colors(areas: list[tuple[slice, tuple[int, int, int]]], expected: tuple[str, ...]) -> None:
    assert colors_of(picture(*areas)) == expected


def test_white_counts_inside_a_drawing_but_not_around_it() -> None:
    framed = picture((slice(2, 18), (0, 0, 0)))
    framed[:, 3:17, 3:17] = 255
    assert colors_of(framed) == ("white",)


def test_captions_with_colors() -> None:
    assert colored_captions("fox", "fluent-flat", ("orange", "white")) == (
        "a fluent flat emoji of a fox, orange and white",
        "fox in orange and white, fluent flat style",
    )
    assert colored_captions("fox", "noto", ()) == ()
