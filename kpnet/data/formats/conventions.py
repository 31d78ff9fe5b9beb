"""Options for coordinates of other conventions than their format: missing values, origin, scale, order."""

from __future__ import annotations

import numpy as np


def convert_points(
    points: np.ndarray,
    sizes: np.ndarray | None,
    *,
    missing: float | list[float] | None = None,
    normalized: bool = False,
    index_base: float = 0,
    swap_xy: bool = False,
) -> np.ndarray:
    """Convert keypoints as a file has them to pixels.

    Args:
        points: Keypoints (..., K, 2) as they are in the file, NaN where missing.
        sizes: Height and width (..., 2) of each image. Needed if `normalized`.
        missing: Value, or values, that both coordinates of a missing keypoint have, such as 0 or -1.
        normalized: Coordinates are parts of the image's width and height.
        index_base: Coordinate of the centre of the upper left pixel.
        swap_xy: The first coordinate is y.

    Returns:
        Keypoints (..., K, 2) in pixels, NaN where missing.
    """
    points = points[..., ::-1].copy() if swap_xy else points
    for value in [] if missing is None else missing if isinstance(missing, list) else [missing]:
        points[(points == value).all(-1)] = np.nan
    points = points - index_base if index_base else points
    if normalized:
        assert sizes is not None
        points = points * sizes[..., None, ::-1]
    return points
