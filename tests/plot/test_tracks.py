"""The figure of tracks over time: what its lines and bands hold."""

from __future__ import annotations

import numpy as np
import pytest

from kpnet import plot


def test_lines_and_bands_are_the_points_and_their_deviations() -> None:
    time = np.arange(50)
    xy = np.stack([np.stack([time + 5.0 * k, time**2 / 9 + k], -1) for k in range(3)], axis=1)
    deviations = np.broadcast_to([2.0, 3.0], (50, 3, 2))
    figure = plot.draw_tracks(("a", "b", "c"), time / 10, xy, np.full((50, 3), 0.7), deviations, 2.0)
    across, down, sure = figure.axes
    for axis, axes in enumerate((across, down)):
        for k, line in enumerate(axes.get_lines()):
            np.testing.assert_allclose(np.asarray(line.get_xdata(), float), time / 10)
            np.testing.assert_allclose(np.asarray(line.get_ydata(), float), xy[:, k, axis])
        band = axes.collections[1].get_paths()[0].get_extents()
        reach = 2 * (2, 3)[axis]
        assert band.y0 == pytest.approx(xy[:, 1, axis].min() - reach)
        assert band.y1 == pytest.approx(xy[:, 1, axis].max() + reach)
    assert down.yaxis_inverted()
    assert [line.get_ydata()[0] for line in sure.get_lines()] == [0.7] * 3  # type: ignore[index]


def test_a_long_track_is_drawn_by_means() -> None:
    values = np.random.default_rng(0).normal(size=(9000, 1, 2))
    values[4000] = np.nan
    line = plot.draw_tracks(("a",), np.arange(9000) / 30, values).axes[0].get_lines()[0]
    drawn = np.asarray(line.get_ydata())
    assert len(drawn) == 2000
    assert np.isfinite(drawn).all()
    assert drawn.mean() == pytest.approx(np.nanmean(values[:, 0, 0]), abs=0.01)
    assert drawn.std() == pytest.approx(1 / np.sqrt(4.5), rel=0.05)
    assert np.asarray(line.get_xdata())[-1] == pytest.approx(300, abs=0.2)


def test_raw_points_are_drawn_beneath_the_smoothed_ones() -> None:
    smooth, raw = np.zeros((20, 2, 2)), np.ones((20, 2, 2))
    figure = plot.draw_tracks(("a", "b"), np.arange(20) / 10, smooth, raw=raw, title="clip")
    across, down = figure.axes
    for axes in (across, down):
        drawn = [(set(np.asarray(line.get_ydata()).tolist()), line.get_alpha()) for line in axes.get_lines()]
        assert [values for values, _ in drawn] == [{1.0}, {0.0}] * 2
        assert [alpha is None for _, alpha in drawn] == [False, True] * 2
    assert across.get_title() == "clip"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]


def test_what_is_unknown_throughout_has_no_panel_and_many_points_no_legend() -> None:
    xy = np.zeros((3, 30, 2))
    names, nothing = [str(k) for k in range(30)], np.full(xy.shape, np.nan)
    figure = plot.draw_tracks(names, np.arange(3) / 10, xy, nothing[..., 0], nothing)
    assert len(figure.axes) == 2
    assert not figure.axes[0].collections
    assert not figure.legends
    colours = {line.get_color() for line in figure.axes[0].get_lines()}
    assert len(colours) == 30
