"""Pictures: the layout of the grid, and what is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rlgen.generative.pictures import (
    MIN_SIDE,
    SEPARATOR,
    drawable,
    grid,
    save_grid,
    save_reconstructions,
    save_walks,
)


def test_grid_places_every_image() -> None:
    rows = np.arange(5)[:, None] / np.full((1, 6), 5.0)  # image i is of gray i / 5
    picture = grid(rows, (2, 3), columns=2)
    assert picture.dtype == np.uint8
    assert picture.shape == (3 * 3 + 1, 2 * 4 + 1)
    for i in range(6):
        line, column = divmod(i, 2)
        cell = picture[3 * line + 1 : 3 * line + 3, 4 * column + 1 : 4 * column + 4]
        assert (cell == (51 * i if i < 5 else 0)).all()  # the sixth place is blank
    assert (picture[::3] == SEPARATOR).all()
    assert (picture[:, ::4] == SEPARATOR).all()


def test_grid_keeps_the_order_of_pixels_and_clips() -> None:
    picture = grid(np.array([[0.0, 0.4, 1.0, 1.5, -1.0, 0.2]]), (2, 3), columns=1)
    assert picture[1:3, 1:4].tolist() == [[0, 102, 255], [255, 0, 51]]


def test_grid_of_colours() -> None:
    rows = np.zeros((2, 4, 4, 3))
    rows[1, ..., 2] = 1.0
    picture = grid(rows.reshape(2, -1), (4, 4, 3), columns=2)
    assert picture.shape == (6, 11, 3)
    assert picture[2, 7].tolist() == [0, 0, 255]


def test_small_images_are_enlarged_without_blur(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).random((64, 64)).round()
    save_grid(tmp_path / "grid.png", rows, (8, 8))
    written = np.asarray(Image.open(tmp_path / "grid.png"))
    factor = MIN_SIDE // 8
    assert written.shape == (73 * factor, 73 * factor)
    np.testing.assert_array_equal(written[::factor, ::factor], grid(rows, (8, 8), 8))
    np.testing.assert_array_equal(written[factor - 1 :: factor, ::factor], grid(rows, (8, 8), 8))


def test_few_images_leave_no_places_blank(tmp_path: Path) -> None:
    save_grid(tmp_path / "grid.png", np.zeros((3, 64)), (8, 8))
    assert Image.open(tmp_path / "grid.png").size == (7 * (3 * 9 + 1), 7 * (9 + 1))


def test_reconstructions_stand_below_their_originals(tmp_path: Path) -> None:
    originals = np.ones((3, 16)) * np.array([[0.2], [0.4], [0.6]])
    save_reconstructions(tmp_path / "r.png", originals, originals + 0.2, (4, 4), columns=2)
    written = np.asarray(Image.open(tmp_path / "r.png"))
    factor = MIN_SIDE // 4
    small = written[::factor, ::factor]
    centres = small[3::5, 3::5].tolist()
    assert centres == [[51, 102], [102, 153], [153, 0], [204, 0]]


def test_points_are_plotted(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(50, 2))
    save_grid(tmp_path / "s.png", points, (2,))
    save_reconstructions(tmp_path / "r.png", points, points + 0.1, (2,))
    colours = [
        set(map(tuple, np.asarray(Image.open(tmp_path / name).convert("RGB")).reshape(-1, 3)))
        for name in ("s.png", "r.png")
    ]
    assert all(len(found) > 5 for found in colours)  # more than a blank page
    # Only the second picture has points of the second colour (orange: red well above blue).
    orange = [any(int(r) - int(b) > 60 for r, _, b in found) for found in colours]
    assert orange == [False, True]


def test_walks_are_lines_of_images_and_the_ways_of_points(tmp_path: Path) -> None:
    walks = np.random.default_rng(0).random((2, 3, 4, 4))
    save_walks(tmp_path / "images.png", walks, (4, 4))
    save_grid(tmp_path / "grid.png", walks.reshape(6, 16), (4, 4), columns=3)
    assert (tmp_path / "images.png").read_bytes() == (tmp_path / "grid.png").read_bytes()
    ways = np.array([[[0.0, 0.0], [5.0, 5.0], [10.0, 10.0]], [[0.0, 10.0], [5.0, 5.0], [10.0, 0]]])
    save_walks(tmp_path / "ways.png", ways, (2,))
    with Image.open(tmp_path / "ways.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    blue = np.asarray((pixels[..., 2] > pixels[..., 0] + 40).any(1))
    rows = np.flatnonzero(blue)
    assert blue[rows[0] : rows[-1]].mean() > 0.9  # a line, not dots; the other one crosses it
    assert (pixels[..., 0] > pixels[..., 2] + 60).any()  # the other one's colour


def test_no_point_lies_under_the_legend(tmp_path: Path) -> None:
    corners = np.array([[x, y] for x in (-1.0, 1.0) for y in (-1.0, 1.0)])
    save_grid(tmp_path / "s.png", corners, (2,))
    red, _, blue = np.moveaxis(np.asarray(Image.open(tmp_path / "s.png").convert("RGB")), 2, 0)
    seen = (blue.astype(int) - red > 60)[50:]  # below the legend
    middle = len(seen) // 2
    ends = [part.sum() for half in (seen[:middle], seen[middle:]) for part in np.split(half, 2, 1)]
    assert min(ends) > 0.7 * max(ends) > 5


@pytest.mark.parametrize(
    ("shape", "can"),
    [((8, 8), True), ((28, 28, 3), True), ((2,), True), ((10,), False), ((3, 8, 8), False)],
)
def test_drawable(shape: tuple[int, ...], can: bool) -> None:
    assert drawable(shape) == can
