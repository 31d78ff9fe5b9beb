"""The mean shape of labelled points that lie anywhere, at any angle and size."""

from __future__ import annotations

import numpy as np

_ROUNDS = 10


def mean_shape(points: np.ndarray) -> np.ndarray:
    """Return the mean of labelled instances that are aligned by a generalised Procrustes analysis.

    Each instance is moved, turned, scaled and, where that fits better, mirrored onto the mean of all. The mean has the
    median size of the instances, and their angle as far as they have one in common. See Gower 1975, Generalized
    Procrustes analysis.

    Args:
        points: Points (N, K, 2) in pixels; NaN where absent.

    Returns:
        Points (K, 2) in pixels, around any centre; NaN where no instance that can be aligned has the point.
    """
    instances = points[..., 0] + 1j * points[..., 1]
    seen = np.isfinite(instances)
    if not seen.any():
        return np.full(points.shape[1:], np.nan)
    first = max(np.flatnonzero(seen.any(1)), key=lambda i: (seen[i].sum(), np.ptp(points[i][seen[i]], 0).sum()))
    shape = instances[first]
    for _ in range(_ROUNDS):
        turns, mirrored, aligned = _align(instances, shape)
        if not np.isfinite(turns).any():  # a single point, or points that all lie on each other
            return _planar(_mean(instances))
        shape = _mean(aligned)
    fitted = np.isfinite(turns)
    shape = shape / np.median(np.abs(turns[fitted]))
    flip = mirrored[fitted].mean() > 0.5
    directions = (turns / np.abs(turns))[fitted & (mirrored == flip)]
    if abs(directions.mean()) > 1e-6:  # instances that have no angle in common keep that of the first
        shape = shape * np.conj(directions.mean()) / abs(directions.mean())
    return _planar(np.conj(shape) if flip else shape)


def _align(instances: np.ndarray, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit complex instances (N, K) onto a shape (K,) by least squares over the points that both have.

    Returns the factor of each instance (N,), NaN where it has less than two points of the shape; whether it is mirrored
    before (N,); and the aligned instances (N, K).
    """
    shared = np.isfinite(instances) & np.isfinite(shape)
    count = np.maximum(shared.sum(1, keepdims=True), 1)
    own = instances - np.where(shared, instances, 0).sum(1, keepdims=True) / count
    middle = np.where(shared, shape, 0).sum(1, keepdims=True) / count
    z, target = np.where(shared, own, 0), np.where(shared, shape - middle, 0)
    plain, flipped = (np.conj(z) * target).sum(1), (z * target).sum(1)
    mirrored = np.abs(flipped) > (1 + 1e-9) * np.abs(plain)
    power, fit = (np.abs(z) ** 2).sum(1), np.where(mirrored, flipped, plain)
    fits = (power > 0) & (np.abs(fit) > 0)
    turns = np.where(fits, fit, np.nan) / np.where(fits, power, 1)
    return turns, mirrored, turns[:, None] * np.where(mirrored[:, None], np.conj(own), own) + middle


def _mean(instances: np.ndarray) -> np.ndarray:
    """Return the mean of complex instances (N, K) over those that have the point; NaN without one."""
    there = np.isfinite(instances)
    count = there.sum(0)
    return np.where(count, np.where(there, instances, 0).sum(0), np.nan) / np.maximum(count, 1)


def _planar(shape: np.ndarray) -> np.ndarray:
    return np.stack([shape.real, shape.imag], -1)
