"""The contact sheet: points, boxes, edges and notes where and as the samples have them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from support.pixels import read_bgr

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data import KeypointDataset, PointsCSV
from kpnet.plot import draw_contact_sheet, save_figure

EYES = Skeleton(("left_eye", "right_eye", "nose"), (("left_eye", "right_eye"),), (("left_eye", "nose"),))


class Samples(KeypointDataset):
    """Images of 60x80 whose grey value is their index; number 2 cannot be read."""

    def __init__(self, xy: np.ndarray, box: np.ndarray | None = None, skeleton: Skeleton = EYES) -> None:
        super().__init__()
        self.xy, self.edges_of_box, self.skeleton = xy, box, skeleton

    def __len__(self) -> int:
        return 5

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if index == 2:
            raise KpnetError("damaged")
        return np.full((60, 80), index, np.uint8), self.xy.copy()

    def box(self, index: int) -> np.ndarray | None:
        return self.edges_of_box

    def visibility(self, index: int) -> np.ndarray:
        return np.resize([2, 1, 2], len(self.skeleton)).astype(np.uint8)

    def instance(self, index: int) -> int:
        return int(index == 4)

    def image_name(self, index: int) -> str:
        return f"image {index}" if index != 3 else "a/" * 30 + "b.png"


POINTS = np.array([[70.0, 10], [5, 10], [40, 50]])


@dataclass
class Tile:
    """What is drawn of a sample, in its image's pixels."""

    image: AxesImage
    edges: LineCollection
    marks: PathCollection

    def pixels(self, places: Any) -> np.ndarray:
        left, right, bottom, top = self.image.get_extent()
        height, width = np.asarray(self.image.get_array()).shape[:2]
        return (np.asarray(places) - (left, top)) / (right - left, bottom - top) * (width, height) - 0.5

    @property
    def view(self) -> np.ndarray:
        """Edges x0, y0, x1, y1 of what is shown."""
        clip, axes = self.image.get_clip_box(), self.image.axes
        assert clip is not None
        assert axes is not None
        return self.pixels(axes.transData.inverted().transform(clip.get_points())).ravel()


def tiles(figure: Figure) -> list[Tile]:
    (axes,) = figure.axes
    lines = [each for each in axes.collections if isinstance(each, LineCollection)]
    marks = [each for each in axes.collections if isinstance(each, PathCollection)]
    return [Tile(*parts) for parts in zip(axes.images, lines, marks, strict=True)]


def titles(figure: Figure) -> dict[str, str]:
    return {text.get_text(): to_hex(text.get_color()) for text in figure.axes[0].texts}


def test_a_tile_a_sample_with_its_points_sides_and_edges() -> None:
    figure = draw_contact_sheet(Samples(POINTS), [0, 1, 2, 4], {1: "swapped"})
    assert titles(figure) == {"image 0": "#000000", "image 1\nswapped": "#ff0000", "image 4 #1": "#000000"}
    drawn = tiles(figure)
    for tile, index in zip(drawn, (0, 1, 4), strict=True):
        assert (np.asarray(tile.image.get_array()) == index).all()
        np.testing.assert_allclose(tile.pixels(tile.marks.get_offsets()), POINTS, atol=1e-9)
        (edge,) = tile.edges.get_segments()
        np.testing.assert_allclose(tile.pixels(edge), [[70, 10], [40, 50]], atol=1e-9)
        view = np.sort(tile.view.reshape(2, 2), axis=0).ravel()
        np.testing.assert_allclose(view, [-0.5, -0.5, 79.5, 59.5], atol=1e-6, err_msg="the whole image")
    colours = [to_hex(colour) for colour in np.asarray(drawn[0].marks.get_edgecolor())]
    assert len(set(colours)) == 3, "left, right, and neither"
    hollow = [colour[3] == 0 for colour in np.asarray(drawn[0].marks.get_facecolor())]
    assert hollow == [False, True, False], "what is hidden"


def test_tiles_do_not_overlap_and_pixels_are_square() -> None:
    axes = (figure := draw_contact_sheet(Samples(POINTS), [0, 1, 3, 4])).axes[0]
    boxes = [image.get_window_extent() for image in axes.images]
    for box in boxes:
        assert box.width / box.height == pytest.approx(80 / 60)
        assert sum(box.overlaps(other) for other in boxes) == 1, "itself alone"
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1


def test_names_stand_at_their_points_and_missing_points_have_none() -> None:
    xy = POINTS.copy()
    xy[0] = np.nan
    figure = draw_contact_sheet(Samples(xy), [0, 1])
    drawn = tiles(figure)
    assert [len(np.asarray(tile.marks.get_offsets())) for tile in drawn] == [2, 2]
    names = figure.axes[0].get_lines()
    assert len(names) == len(EYES)
    for k, line in enumerate(names):
        places = np.asarray(line.get_xydata(), float)
        for tile, place in zip(drawn, places, strict=True):
            np.testing.assert_allclose(tile.pixels(place), xy[k], atol=1e-9)


def test_a_name_without_glyphs_is_drawn_as_none() -> None:
    skeleton = Skeleton(("left_eye", " ", "nose"))
    figure = draw_contact_sheet(Samples(POINTS, skeleton=skeleton), [0])
    assert len(figure.axes[0].get_lines()) == 2


def test_a_small_sample_is_shown_with_its_surroundings_and_its_box() -> None:
    box = np.array([20.0, 10, 30, 25])
    xy = np.array([[22.0, 12], [28, 12], [25, 24]])
    figure = draw_contact_sheet(Samples(xy, box), [0])
    (tile,) = tiles(figure)
    (patch,) = figure.axes[0].patches
    assert isinstance(patch, Rectangle)
    corners = patch.get_xy(), (patch.get_x() + patch.get_width(), patch.get_y() + patch.get_height())
    np.testing.assert_allclose(tile.pixels(corners).ravel(), box, atol=1e-9)
    low, high = np.sort(tile.view.reshape(2, 2), axis=0)
    np.testing.assert_allclose(high - low, 24, err_msg="half as much again as 16 pixels, or as the larger side")
    np.testing.assert_allclose((low + high) / 2, (25, 17.5))


def test_a_point_beyond_the_image_is_shown() -> None:
    xy = POINTS.copy()
    xy[0] = [95, -20]
    (tile,) = tiles(draw_contact_sheet(Samples(xy), [0]))
    low, high = np.sort(tile.view.reshape(2, 2), axis=0)
    assert high[0] >= 95
    assert low[1] <= -20


def test_a_long_name_keeps_its_end() -> None:
    (title,) = titles(draw_contact_sheet(Samples(POINTS), [3]))
    assert title.endswith("a/b.png")
    assert len(title) < 40


def test_nothing_that_can_be_read_is_an_error() -> None:
    for indices in ([], [2]):
        with pytest.raises(KpnetError):
            draw_contact_sheet(Samples(POINTS), indices)


def test_points_are_drawn_where_they_are(tmp_path: Path) -> None:
    """On an image enlarged by matplotlib the mark lies where the point is."""
    image = np.zeros((40, 40, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    (tmp_path / "p.csv").write_text("image,left_x,left_y\na.png,30,10\n")
    figure = draw_contact_sheet(PointsCSV(tmp_path / "p.csv"), [0])
    save_figure(figure, tmp_path / "sheet.png")
    sheet = read_bgr(tmp_path / "sheet.png")
    rows, columns = np.nonzero((sheet < 30).all(-1))
    low, high = np.array([columns.min(), rows.min()]), np.array([columns.max(), rows.max()])
    rows, columns = np.nonzero(np.abs(sheet.astype(int) - 242).max(-1) < 10)
    inside = (columns > low[0]) & (columns < high[0]) & (rows > low[1]) & (rows < high[1])
    mark = np.array([np.median(columns[inside]), np.median(rows[inside])])
    shown = (mark - low + 0.5) / (high - low + 1) * 40 - 0.5
    assert np.abs(shown - [30, 10]).max() < 2


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 1), (1, 1, 3), (1, 9, 3), (9, 1)])
def test_an_image_of_one_pixel_or_line(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Samples, "read", lambda self, index: (np.full(shape, 99, np.uint8), self.xy.copy()))
    figure = draw_contact_sheet(Samples(np.zeros((3, 2))), [0, 1])
    arrays = [shown.get_array() for shown in figure.axes[0].images]
    assert [array.shape[:2] for array in arrays if array is not None] == [shape[:2]] * 2


@pytest.mark.parametrize("name", ["$\\foo$", "a$x", "\x1b[31m", "n" * 500])
def test_a_name_that_is_no_plain_text(name: str) -> None:
    figure = draw_contact_sheet(Samples(np.full((1, 2), 9.0), skeleton=Skeleton((name,))), [0])
    figure.draw_without_rendering()
