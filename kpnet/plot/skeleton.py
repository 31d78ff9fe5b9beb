"""A skeleton: its points with their names, and the lines between them."""

from __future__ import annotations

import numpy as np
from matplotlib.collections import LineCollection

from kpnet.core.display import display_name, figure_text
from kpnet.core.skeleton import Skeleton
from kpnet.plot.figure import Figure

LEFT, RIGHT, MIDDLE, EDGE = "#d96c00", "#1f77d0", "#404040", "#9a9a9a"
_NAMED = 40  # the names of more points than this are not listed


def draw_skeleton(skeleton: Skeleton, points: np.ndarray) -> Figure:
    """Draw a skeleton at given places: left points orange, right ones blue.

    Args:
        skeleton: The skeleton of K points.
        points: Where they are (K, 2), with y downwards, in any unit; those that are not finite are not drawn.

    Returns:
        The figure, on white, with a number beside each point, and the list of their names unless they are many.

    Example:
        ```python
        kpnet.plot.draw_skeleton(kpnet.Skeleton.load("facial15"), points)
        ```
    """
    figure = Figure(figsize=(6.5, 5), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    there = np.isfinite(points).all(-1)
    edges = [points[list(pair)] for pair in skeleton.edge_indices if there[list(pair)].all()]
    axes.add_collection(LineCollection(edges, colors=EDGE, linewidths=1.5), autolim=False)
    sides = {name: colour for pair in skeleton.pairs for name, colour in zip(pair, (LEFT, RIGHT), strict=True)}
    shown = points[there]
    low, high = (shown.min(0), shown.max(0)) if len(shown) else (np.zeros(2), np.ones(2))
    middle, half = (low + high) / 2, 0.6 * max(*(high - low), 1e-6)
    handles = []
    for k in np.flatnonzero(there):
        name, colour = skeleton.names[k], sides.get(skeleton.names[k], MIDDLE)
        label = f"{k}  {figure_text(display_name(name, 32))}"
        handles += axes.plot(*points[k], "o", color=colour, markersize=6, label=label)
        axes.annotate(str(k), points[k], (4, 4), textcoords="offset points", fontsize=8, color=colour)
    if 0 < len(handles) <= _NAMED:
        small = 8 if len(handles) <= 20 else 6
        figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=small, handlelength=1)
    (left, top), (right, bottom) = middle - half, middle + half
    axes.set(aspect="equal", xlim=(left, right), ylim=(bottom, top))
    axes.set_axis_off()
    return figure
