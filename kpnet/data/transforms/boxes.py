"""How boxes move with an image: a turned box is not the box around its corners, which would be larger."""

from __future__ import annotations

import numpy as np

_OUTWARDS = np.array([(-1.0, 0.0), (0.0, -1.0), (1.0, 0.0), (0.0, 1.0)])  # to the left, top, right and bottom edge


def corners_of(boxes: np.ndarray) -> np.ndarray:
    """Return the corners of boxes.

    Args:
        boxes: Edges x0, y0, x1, y1 (N, 4).

    Returns:
        Points (N, 4, 2): upper left, upper right, lower left, lower right.
    """
    return boxes[:, [[0, 1], [2, 1], [0, 3], [2, 3]]]


def hull_of_corners(corners: np.ndarray) -> np.ndarray:
    """Return the boxes around corners.

    Args:
        corners: Points (N, 4, 2).

    Returns:
        Edges x0, y0, x1, y1 (N, 4); NaN where a corner is.
    """
    return np.concatenate([corners.min(1), corners.max(1)], -1)


def moved_boxes(before: np.ndarray, after: np.ndarray, boxes: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Return the boxes of instances in an augmented image.

    A box has a margin around its instance's points to each side. In the augmented image it has these margins around
    the points' new places, turned and scaled with the image. So it is exact after shifts, scalings, mirrors and quarter
    turns, and does not grow in a turn by another angle, as the box around its corners would.

    Args:
        before: Points (N, K, 2) before, NaN where absent; each instance has one.
        after: The same points (N, K, 2) after, in the same order, NaN where absent or lost.
        boxes: Edges x0, y0, x1, y1 (N, 4) before.
        corners: The boxes' corners (N, 4, 2) after, as `corners_of` orders them.

    Returns:
        Edges (N, 4); where the points are lost or the margins leave nothing, those of the box around the corners, NaN
        where a corner is lost, too.
    """
    if not len(boxes):
        return boxes
    known = np.isfinite(before).all(-1) & np.isfinite(after).all(-1)
    old, new = _hull(before, known), _hull(after, known)
    margins = np.concatenate([old[:, :2] - boxes[:, :2], boxes[:, 2:] - old[:, 2:]], -1)  # left, top, right, bottom
    sides = boxes[:, 2:] - boxes[:, :2]
    with np.errstate(invalid="ignore", divide="ignore"):  # boxes without area
        along_x = (corners[:, 1] - corners[:, 0] + corners[:, 3] - corners[:, 2]) / 2 / sides[:, :1]
        along_y = (corners[:, 2] - corners[:, 0] + corners[:, 3] - corners[:, 1]) / 2 / sides[:, 1:]
        (a, c), (b, d) = along_x.T, along_y.T
        inverse = np.array([[d, -b], [-c, a]]).transpose(2, 0, 1) / (a * d - b * c)[:, None, None]
        # Of each direction after: the direction before, and the parts that the old margins have in it.
        origin = np.einsum("nij,ej->nei", inverse, _OUTWARDS)
        length = np.linalg.norm(origin, axis=-1)
        shares = (origin / length[..., None]) ** 2
        old_margins = np.where(origin < 0, margins[:, None, :2], margins[:, None, 2:])
        moved = (shares * old_margins).sum(-1) / length
    result = np.concatenate([new[:, :2] - moved[:, :2], new[:, 2:] + moved[:, 2:]], -1)
    good = np.asarray((result[:, 2:] > result[:, :2]).all(-1))
    return np.where(good[:, None], result, hull_of_corners(corners))


def _hull(points: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the boxes (N, 4) around those of the points (N, K, 2) that are known (N, K); NaN without any."""
    low = np.where(known[..., None], points, np.inf).min(1)
    high = np.where(known[..., None], points, -np.inf).max(1)
    return np.where(known.any(1, keepdims=True), np.concatenate([low, high], -1), np.nan)
