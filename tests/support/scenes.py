"""Images with instances of three points, found and true, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SIGMAS = (0.05, 0.05, 0.05)
SHAPE = np.array([(-10.0, -10.0), (10.0, -10.0), (0.0, 10.0)])  # an instance's points about its centre


@dataclass
class Found:
    """What was found in an image."""

    keypoints: np.ndarray
    scores: np.ndarray | None
    confidence: np.ndarray | None = None
    expected_oks: np.ndarray | None = None


@dataclass
class Truth:
    """What is in an image."""

    points: np.ndarray
    visible: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    ignored: np.ndarray
    partial: bool = False
    image: str = "a.png"


def found_at(centres: Sequence[tuple[float, float]], scores: Sequence[float]) -> Found:
    """Detections of the shape about these centres."""
    return Found(np.array(centres, float).reshape(-1, 1, 2) + SHAPE, np.array(scores, float))


def truth_at(
    centres: Sequence[tuple[float, float]],
    ignored: Sequence[tuple[float, float, float, float]] = (),
    partial: bool = False,
    hidden: Sequence[int] = (),
) -> Truth:
    """True instances of the shape about these centres, in boxes of 20 px; those of `hidden` have no visible point."""
    middle = np.array(centres, float).reshape(-1, 1, 2)
    points = middle + SHAPE
    visible = np.ones(points.shape[:2], bool)
    visible[list(hidden)] = False
    boxes = np.concatenate([middle[:, 0] - 10, middle[:, 0] + 10], -1)
    regions = np.array(ignored, float).reshape(-1, 4)
    return Truth(points, visible, boxes, np.full(len(points), 400.0), regions, partial)
