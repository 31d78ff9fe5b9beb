"""Skeletons drawn: the image is looked at where a point has to be."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image

from kpnet import Skeleton, plot
from kpnet.plot.figure import Figure
from kpnet.plot.skeleton import LEFT, RIGHT

POINTS = np.array([[10.0, 5.0], [2.0, 5.0], [6.0, 12.0], [np.nan, np.nan]])
SKELETON = Skeleton(("left_$eye", "right_eye", "nose", "gone"), (("left_$eye", "right_eye"),), (("nose", "gone"),))


def pixels(figure: Figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB")) / 255


def test_points_are_where_they_are_given() -> None:
    figure = plot.draw_skeleton(SKELETON, POINTS)
    image = pixels(figure)
    places = figure.axes[0].transData.transform(POINTS[:2])
    for (x, y), colour in zip(places, (LEFT, RIGHT), strict=True):
        assert np.allclose(image[len(image) - 1 - round(y), round(x)], to_rgb(colour), atol=0.02)
    assert places[0, 0] > places[1, 0]
    assert [text.get_text() for text in figure.axes[0].texts] == ["0", "1", "2"]
    assert [text.get_text() for text in figure.legends[0].texts] == [r"0  left_\$eye", "1  right_eye", "2  nose"]


def test_many_points_are_numbered_and_none_is_no_error() -> None:
    many = Skeleton.from_names([f"point{k}" for k in range(60)])
    figure = plot.draw_skeleton(many, np.random.default_rng(0).random((60, 2)))
    assert figure.axes[0].texts[59].get_text() == "59"
    assert not figure.legends
    assert (pixels(plot.draw_skeleton(many, np.full((60, 2), np.nan))) == 1).all()
