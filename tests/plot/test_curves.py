"""Curves of a training and of a confidence: their lines are the numbers they are given."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from kpnet import plot

BLUE, ORANGE, GREEN = (31, 119, 180), (255, 127, 14), (44, 160, 44)


def points(axes: Axes, label: str) -> np.ndarray:
    """The line (N, 2) of that label."""
    (line,) = [line for line in axes.get_lines() if line.get_label() == label]
    return np.column_stack([np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)])


def rendered(figure: plot.Figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    image = cv2.imdecode(np.frombuffer(buffer.getvalue(), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert image is not None
    return image


def near(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.asarray((np.abs(picture.astype(int) - colour) < 12).all(-1))


def test_each_column_is_a_line_over_its_epochs() -> None:
    """Validation every second epoch leaves no gap and moves nothing."""
    validated = [np.nan, 4.0, np.nan, 2.0]
    table = pd.DataFrame({"epoch": [3, 4, 5, 6], "train_loss": [8.0, 4, 2, 1], "val_loss": validated})
    table["val_score"], table["lr"] = [np.nan, 10.0, np.nan, 20.0], [0.1, 0.2, 0.2, 0.1]
    left, rate, score = plot.draw_curves(table).axes
    assert points(left, "train loss").tolist() == [[3, 8], [4, 4], [5, 2], [6, 1]]
    assert points(left, "val loss").tolist() == [[4, 4], [6, 2]]
    assert points(score, "val score").tolist() == [[4, 10], [6, 20]]
    assert points(rate, "lr").tolist() == [[3, 0.1], [4, 0.2], [5, 0.2], [6, 0.1]]
    assert score.get_ylim()[0] == 0
    assert score.get_ylim()[1] > 20


def test_the_image_has_a_curve_of_each_colour_that_falls_or_rises() -> None:
    k = np.arange(40)
    table = pd.DataFrame({"epoch": k, "train_loss": 0.9**k, "val_loss": 3 * 0.9**k, "val_score": 2.0 * k})
    picture = rendered(plot.draw_curves(table))
    middle = picture.shape[1] // 2
    plain = picture[int(0.2 * len(picture)) : int(0.85 * len(picture))]  # without legend and labels
    for colour, falls in ((BLUE, True), (ORANGE, True), (GREEN, False)):
        rows, columns = np.nonzero(near(plain, colour))
        left, right = rows[columns < middle - 50].mean(), rows[columns > middle + 50].mean()
        assert bool(right > left) is falls


def test_a_row_of_one_epoch_is_a_visible_dot() -> None:
    table = pd.DataFrame({"epoch": [0], "train_loss": [0.5]})
    figure = plot.draw_curves(table)
    (line,) = figure.axes[0].get_lines()
    assert line.get_marker() == "o"
    assert near(rendered(figure), BLUE).sum() > 20


def test_the_range_test_marks_the_suggestion_on_the_smoothed_curve() -> None:
    rates, losses = np.logspace(-5, 0, 11), np.linspace(3, 1, 11)
    losses[-1] = 1e6  # it diverges
    smoothed = np.linspace(3, 0.5, 11)
    axes = plot.draw_lr_curve(rates, losses, smoothed, 10**-2.25).axes[0]
    assert axes.get_xscale() == "log"
    each, smooth = points(axes, "loss of each step"), points(axes, "smoothed")
    np.testing.assert_allclose(each, np.column_stack([rates, losses]))
    np.testing.assert_allclose(smooth, np.column_stack([rates, smoothed]))
    (mark,) = [line for line in axes.get_lines() if line.get_marker() == "o"]
    x, y = (np.asarray(values, float).item() for values in mark.get_data())
    assert x == pytest.approx(10**-2.25)
    assert y == pytest.approx(3 - 2.5 * (5 - 2.25) / 5), "linear in the logarithm of the rate"
    assert axes.get_ylim()[1] < 10, "what diverges leaves the image"


MEASURED: dict[str, Any] = {
    "diagram": {"1%": [{"confidence": 0.2, "right": 0.1}, {"confidence": 0.8, "right": 0.9}]},
    "ece": 0.125,
    "coverage": {"50%": {"measured": 0.4, "low": 0.3, "high": 0.6}, "95%": {"measured": 0.9, "low": 0.9, "high": 0.95}},
    "deciles": [{"predicted_px": 1.0, "px": 2.0}, {"predicted_px": 4.0, "px": 3.0}, {"predicted_px": 0.0, "px": 1.0}],
}


def test_reliability_is_drawn_against_the_diagonal() -> None:
    right, ellipses, errors = plot.draw_reliability(MEASURED).axes
    diagram = right.get_lines()[0]
    assert np.column_stack([np.asarray(v) for v in diagram.get_data()]).tolist() == [[0.2, 0.1], [0.8, 0.9]]
    assert "0.125" in right.get_title()
    (container,) = ellipses.containers
    middle, _, (bars,) = container
    assert np.column_stack([np.asarray(v) for v in middle.get_data()]).tolist() == [[0.5, 0.4], [0.95, 0.9]]
    ends = [sorted(segment[:, 1].tolist()) for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, [[0.3, 0.6], [0.9, 0.95]])
    for axes in (right, ellipses):
        diagonal = axes.get_lines()[-1]
        assert np.asarray(diagonal.get_xdata()).tolist() == np.asarray(diagonal.get_ydata()).tolist() == [0, 1]
    drawn = errors.get_lines()[0]
    assert np.column_stack([np.asarray(v) for v in drawn.get_data()]).tolist() == [[1, 2], [4, 3]], "no logarithm of 0"
    assert errors.get_xscale() == errors.get_yscale() == "log"


def test_scores_of_instances_are_drawn_beside_the_points_or_alone() -> None:
    found = {"ece": 0.05, "diagram": [{"score": 0.2, "right": 0.25}, {"score": 0.9, "right": 0.8}]}
    assert len(plot.draw_reliability(MEASURED).axes) == 3
    assert len(plot.draw_reliability(MEASURED, found).axes) == 4
    expected = {"oks_error": 0.1, "oks_diagram": [{"expected": 0.3, "oks": 0.4}, {"expected": 0.8, "oks": 0.7}]}
    (axes,) = plot.draw_reliability(None, {**found, **expected}).axes
    assert points(axes, "score: fraction right").tolist() == [[0.2, 0.25], [0.9, 0.8]]
    assert points(axes, "expected OKS: OKS").tolist() == [[0.3, 0.4], [0.8, 0.7]]
    assert "0.050" in axes.get_title()


@pytest.mark.parametrize(
    ("losses", "scale"),
    [
        ([8.0, 1.0], "log"),
        ([2.565, 2.562], "linear"),
        ([2.5], "linear"),
        ([3.0, -1.0], "linear"),
        ([3.0, 0.0], "linear"),
    ],
)
def test_a_loss_that_hardly_falls_is_labelled_in_full(losses: list[float], scale: str) -> None:
    figure = plot.draw_curves(pd.DataFrame({"epoch": range(len(losses)), "train_loss": losses}))
    axes = figure.axes[0]
    figure.canvas.draw()
    assert axes.get_yscale() == scale
    labels = [text.get_text() for text in axes.get_yticklabels(which="both") if text.get_text()]
    assert len(set(labels)) == len(labels) >= 2
