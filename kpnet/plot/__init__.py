"""Pictures: points on images, what a network sees, training curves. The functions give matplotlib figures."""

from __future__ import annotations

from kpnet.plot.curves import draw_curves, draw_reliability
from kpnet.plot.figure import Figure, draw_mosaic, save_figure
from kpnet.plot.points import draw_points, draw_predictions, show_keypoint_predictions

__all__ = [
    "Figure",
    "draw_curves",
    "draw_mosaic",
    "draw_points",
    "draw_predictions",
    "draw_reliability",
    "save_figure",
    "show_keypoint_predictions",
]
