"""Points over time."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from kpnet.core.display import display_name, figure_text
from kpnet.plot.figure import Figure

MOST = 2000  # values along a line; longer tracks are averaged
NAMED = 24  # points that a legend has room for


def draw_tracks(
    names: Sequence[str],
    fps: float,
    xy: np.ndarray,
    confidence: np.ndarray | None = None,
    std: np.ndarray | None = None,
    radius: float = 1.0,
    raw: np.ndarray | None = None,
    title: str = "",
) -> Figure:
    """Draw x, y and confidence of K points over time, with a colour for each point.

    What is None, or NaN throughout, is not drawn. Tracks of more than 2000 frames are drawn as 2000 means over
    consecutive frames.

    Args:
        names: Names of the K points.
        fps: Frames per second.
        xy: Points (T, K, 2) in pixels.
        confidence: Confidence of each point (T, K) in [0, 1].
        std: Standard deviations (T, K, 2) of x and y in pixels, drawn as bands around the lines.
        radius: Half width of the bands, in standard deviations.
        raw: Points (T, K, 2) before smoothing, drawn pale.
        title: Title of the figure.

    Returns:
        Two panels, x and y over time in seconds, and a third with the confidence if there is one.
    """
    with_confidence = confidence is not None and bool(np.isfinite(confidence[:1]).any())
    ratios = [3, 3, 1.6][: 3 if with_confidence else 2]
    figure = Figure(figsize=(11, 2.2 + 0.9 * sum(ratios)), dpi=130, layout="constrained")
    panels = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios)
    ends = np.linspace(0, len(xy), min(len(xy), MOST) + 1).astype(int)
    starts = ends[:-1]
    time = (starts + ends[1:] - 1) / 2 / fps
    colours = matplotlib.colormaps["tab10" if len(names) <= 10 else "turbo"]
    for k, name in enumerate(names):
        colour = colours(k if len(names) <= 10 else k / (len(names) - 1))
        for axis, axes in enumerate(panels[:2]):
            line = _means(xy[:, k, axis], starts)
            if raw is not None:
                axes.plot(time, _means(raw[:, k, axis], starts), color=colour, linewidth=0.6, alpha=0.45)
            axes.plot(time, line, color=colour, linewidth=0.9, label=figure_text(display_name(name, 40)))
            if std is not None and np.isfinite(std[:1, k]).any():
                half = radius * _means(std[:, k, axis], starts)
                axes.fill_between(time, line - half, line + half, color=colour, alpha=0.18, linewidth=0)
        if confidence is not None and with_confidence:
            panels[2].plot(time, _means(confidence[:, k], starts), color=colour, linewidth=0.8)
    _finish(panels, len(names), title)
    return figure


def _means(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the means of values (T,) from each start to the next, without NaN."""
    values = np.asarray(values)
    there = np.isfinite(values)
    count = np.add.reduceat(there.astype(float), starts)
    total = np.add.reduceat(np.where(there, values, 0), starts)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _finish(panels: Sequence[Axes], points: int, title: str) -> None:
    panels[0].set_title(figure_text(title), fontsize=9)
    panels[1].invert_yaxis()  # y grows downwards, as in the image
    for axes, label in zip(panels, ("x, px", "y, px", "confidence"), strict=False):
        axes.set_ylabel(label)
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.margins(x=0.01)
    if len(panels) > 2:
        panels[2].set_ylim(-0.03, 1.03)
    panels[-1].set_xlabel("time, s")
    if points <= NAMED:
        legend = panels[0].figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
        for handle in legend.get_lines():
            handle.set_linewidth(2.5)
