"""Figures of points, curves, tracks and of what a network sees, with matplotlib. Imports models and data.

A name is imported when it is first used, so that drawing a contact sheet does not import networks.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kpnet.plot.contact_sheet import draw_contact_sheet
    from kpnet.plot.curves import draw_curves, draw_lr_curve, draw_reliability
    from kpnet.plot.figure import Figure, draw_mosaic, save_figure
    from kpnet.plot.gradients import draw_gradients, input_gradients
    from kpnet.plot.network import NothingToDraw, draw_features, draw_filters, draw_heatmaps, draw_uncertainty
    from kpnet.plot.points import (
        draw_instances,
        draw_points,
        draw_predictions,
        instance_colour,
        show_keypoint_predictions,
    )
    from kpnet.plot.skeleton import draw_skeleton
    from kpnet.plot.tracks import draw_tracks

_HOME = {
    "Figure": "figure",
    "NothingToDraw": "network",
    "draw_contact_sheet": "contact_sheet",
    "draw_curves": "curves",
    "draw_features": "network",
    "draw_filters": "network",
    "draw_gradients": "gradients",
    "draw_heatmaps": "network",
    "draw_instances": "points",
    "draw_lr_curve": "curves",
    "draw_mosaic": "figure",
    "draw_points": "points",
    "draw_predictions": "points",
    "draw_reliability": "curves",
    "draw_skeleton": "skeleton",
    "draw_tracks": "tracks",
    "draw_uncertainty": "network",
    "input_gradients": "gradients",
    "instance_colour": "points",
    "save_figure": "figure",
    "show_keypoint_predictions": "points",
}

__all__ = [
    "Figure",
    "NothingToDraw",
    "draw_contact_sheet",
    "draw_curves",
    "draw_features",
    "draw_filters",
    "draw_gradients",
    "draw_heatmaps",
    "draw_instances",
    "draw_lr_curve",
    "draw_mosaic",
    "draw_points",
    "draw_predictions",
    "draw_reliability",
    "draw_skeleton",
    "draw_tracks",
    "draw_uncertainty",
    "input_gradients",
    "instance_colour",
    "save_figure",
    "show_keypoint_predictions",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'kpnet.plot' has no attribute {name!r}")
    return getattr(importlib.import_module(f"kpnet.plot.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
