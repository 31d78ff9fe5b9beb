"""Figures of points, curves, tracks and of what a network sees, with matplotlib. Imports models and data."""

from __future__ import annotations

from kpnet.plot.contact_sheet import draw_contact_sheet
from kpnet.plot.curves import draw_curves, draw_lr_curve, draw_reliability
from kpnet.plot.figure import Figure, draw_mosaic, save_figure
from kpnet.plot.gradients import draw_gradients, input_gradients
from kpnet.plot.network import NothingToDraw, draw_features, draw_filters, draw_heatmaps, draw_uncertainty
from kpnet.plot.points import draw_points, draw_predictions, show_keypoint_predictions
from kpnet.plot.tracks import draw_tracks

__all__ = [
    "Figure",
    "NothingToDraw",
    "draw_contact_sheet",
    "draw_curves",
    "draw_features",
    "draw_filters",
    "draw_gradients",
    "draw_heatmaps",
    "draw_lr_curve",
    "draw_mosaic",
    "draw_points",
    "draw_predictions",
    "draw_reliability",
    "draw_tracks",
    "draw_uncertainty",
    "input_gradients",
    "save_figure",
    "show_keypoint_predictions",
]
