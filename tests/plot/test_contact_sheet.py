"""The contact sheet: points, boxes, edges and notes where and as the samples have them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
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


def marks(axes: Axes) -> list[tuple[tuple[float, float], str, bool]]:
    """Place, colour and whether it is hollow, of each mark."""
    found = []
    for line in axes.get_lines():
        if line.get_marker() == "o":
            x, y = (float(np.asarray(values).item()) for values in line.get_data())
            hollow = line.get_markerfacecolor() == "none"
            found.append(((x, y), to_hex(line.get_markeredgecolor()), hollow))
    return found


def test_a_panel_a_sample_with_its_points_sides_and_edges() -> None:
    figure = draw_contact_sheet(Samples(POINTS), [0, 1, 2, 4], {1: "swapped"})
    assert [axes.get_title() for axes in figure.axes] == ["image 0", "image 1\nswapped", "image 4 #1"]
    assert [to_hex(axes.title.get_color()) for axes in figure.axes] == ["#000000", "#ff0000", "#000000"]
    for axes, index in zip(figure.axes, (0, 1, 4), strict=True):
        assert (np.asarray(axes.images[0].get_array()) == index).all()
    axes = figure.axes[0]
    places, colours, hollow = zip(*marks(axes), strict=True)
    assert list(places) == [tuple(point) for point in POINTS.tolist()]
    assert len(set(colours)) == 3, "left, right, and neither"
    assert list(hollow) == [False, True, False], "what is hidden"
    assert [text.get_text() for text in axes.texts] == list(EYES.names)
    (edge,) = [line for line in axes.get_lines() if line.get_marker() != "o"]
    assert np.column_stack([np.asarray(v) for v in edge.get_data()]).tolist() == [[70, 10], [40, 50]]
    assert (axes.get_xlim(), axes.get_ylim()) == ((-0.5, 79.5), (59.5, -0.5)), "the whole image"


def test_missing_points_have_no_mark_and_many_have_numbers() -> None:
    xy = POINTS.copy()
    xy[0] = np.nan
    axes = draw_contact_sheet(Samples(xy), [0]).axes[0]
    assert len(marks(axes)) == 2
    many = Skeleton(tuple(f"point {k}" for k in range(30)))
    axes = draw_contact_sheet(Samples(np.tile([9.0, 9], (30, 1)), skeleton=many), [0]).axes[0]
    assert [text.get_text() for text in axes.texts] == [str(k) for k in range(30)]


def test_a_small_sample_is_shown_with_its_surroundings_and_its_box() -> None:
    box = np.array([20.0, 10, 30, 25])
    xy = np.array([[22.0, 12], [28, 12], [25, 24]])
    axes = draw_contact_sheet(Samples(xy, box), [0]).axes[0]
    (patch,) = axes.patches
    assert isinstance(patch, Rectangle)
    assert (*patch.get_xy(), patch.get_width(), patch.get_height()) == (20, 10, 10, 15)
    low, high = axes.get_xlim()
    bottom, top = axes.get_ylim()
    assert high - low == bottom - top == 24, "half as much again as 16 pixels, or as the larger side"
    assert ((low + high) / 2, (top + bottom) / 2) == (25, 17.5)


def test_a_point_beyond_the_image_is_shown() -> None:
    xy = POINTS.copy()
    xy[0] = [95, -20]
    axes = draw_contact_sheet(Samples(xy), [0]).axes[0]
    assert axes.get_xlim()[1] >= 95
    assert axes.get_ylim()[1] <= -20


def test_a_long_name_keeps_its_end() -> None:
    (title,) = [axes.get_title() for axes in draw_contact_sheet(Samples(POINTS), [3]).axes]
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
