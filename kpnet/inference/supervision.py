"""Predictions as `supervision.KeyPoints`, and back, for its annotators, trackers and metrics (`kpnet[supervision]`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kpnet.core.errors import KpnetError, few

NAMES = "name"  # the entry of `data` that holds the keypoints' names, once for each instance
COVARIANCE, BOXES, EXPECTED_OKS = "covariance", "xyxy", "expected_oks"


def to_key_points(
    keypoints: np.ndarray,
    confidence: np.ndarray | None,
    covariance: np.ndarray | None,
    names: Sequence[str],
    scores: np.ndarray | None = None,
    instances: Mapping[str, np.ndarray | None] | None = None,
) -> Any:
    """Return `supervision.KeyPoints` of N instances.

    Args:
        keypoints: Points (N, K, 2) in pixels whose integers are pixel centres, as OpenCV draws them; NaN where absent.
        confidence: Probability (N, K), or None.
        covariance: Covariance (N, K, 2, 2), or None.
        names: Names of the K keypoints.
        scores: Scores (N,) of the instances, or None.
        instances: What else is known of the instances: arrays (N, …) by the name that they get in `data`, or None.

    Returns:
        The points, float32; absent ones are at 0, 0 and not visible. Names, covariance and what else is known are in
        `data`, and the scores are the `detection_confidence`.

    Raises:
        KpnetError: supervision is not installed.
    """
    try:
        import supervision
    except ImportError:
        raise KpnetError("supervision is not installed: pip install kpnet[supervision]") from None
    count = len(keypoints)
    known = np.isfinite(keypoints).all(-1)
    data: dict[str, Any] = {NAMES: np.tile(np.array(names, str), (count, 1))}
    known_values = {COVARIANCE: covariance, **(instances or {})}
    data |= {name: np.asarray(values) for name, values in known_values.items() if values is not None}
    return supervision.KeyPoints(
        xy=np.where(known[..., None], keypoints, 0).astype(np.float32),
        class_id=np.zeros(count, int),
        keypoint_confidence=None if confidence is None else np.asarray(confidence, np.float32),
        detection_confidence=None if scores is None else np.asarray(scores, np.float32),
        visible=known,
        data=data,
    )


def from_key_points(
    key_points: Any, names: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, tuple[str, ...]]:
    """Return points, confidence, covariance and names of `supervision.KeyPoints`.

    Points that are not visible, and those at 0, 0, by which supervision marks absent ones, are NaN.

    Args:
        key_points: The points of N instances.
        names: Names of the K keypoints. None: those that `to_key_points` put into them, or else 0, 1, 2, …

    Returns:
        Points float64 (N, K, 2), confidence (N, K) or None, covariance (N, K, 2, 2) or None, and the names.

    Raises:
        KpnetError: It holds no points of that shape, or another number of them than names.
    """
    xy = np.asarray(getattr(key_points, "xy", None))
    if xy.dtype.kind not in "fiu" or (xy.size and (xy.ndim != 3 or xy.shape[2] != 2)):
        what = type(key_points).__name__
        raise KpnetError(f"expected supervision.KeyPoints with xy (N, K, 2), found {what} with {xy.dtype} {xy.shape}")
    if not xy.size:
        xy = np.zeros((0, len(names) if names is not None else xy.shape[1] if xy.ndim == 3 else 0, 2))
    xy = xy.astype(np.float64)
    data = getattr(key_points, "data", None) or {}
    if names is None and NAMES in data and len(data[NAMES]):
        names = [str(name) for name in data[NAMES][0]]
    names = tuple(map(str, range(xy.shape[1]))) if names is None else tuple(names)
    if len(names) != xy.shape[1]:
        raise KpnetError(f"{xy.shape[1]} points and {len(names)} names: {few(names)}")
    absent = (xy == 0).all(-1)
    visible = getattr(key_points, "visible", None)
    if visible is not None:
        absent |= ~np.asarray(visible, bool)
    xy[absent] = np.nan
    confidence = getattr(key_points, "keypoint_confidence", None)
    return xy, None if confidence is None else np.asarray(confidence, np.float64), data.get(COVARIANCE), names


def read_instances(key_points: Any, names: Sequence[str]) -> tuple[np.ndarray | None, list[np.ndarray | None]]:
    """Return the scores (N,) of `supervision.KeyPoints`, and the arrays of these names in its `data`, or None."""
    scores = getattr(key_points, "detection_confidence", None)
    data = getattr(key_points, "data", None) or {}
    found = [None if data.get(name) is None else np.asarray(data[name], np.float64) for name in names]
    return None if scores is None else np.asarray(scores, np.float64), found
