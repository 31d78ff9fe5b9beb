"""Are left and right mixed up in a sample?"""

from __future__ import annotations

import numpy as np

from kpnet.skeleton import Skeleton

_ODD = 4.0  # times the median distance from the common shape, at least, makes a sample worth a look
_BETTER = 0.4  # of that distance, at most, is left once sides are swapped
_RARE = 0.02  # of the samples may have a pair the other way round; of limbs that cross, more have


def suspicious_sides(xy: np.ndarray, skeleton: Skeleton) -> dict[int, str]:
    """Index and what to look at, of samples (N, K, 2) whose left and right seem swapped.

    Either they fit the shape that most have far better with all pairs swapped, or single pairs point the other way
    round than in nearly all others. Shapes are compared up to place, scale and rotation, but not up to a mirror, so
    an animal may look any way.
    """
    if not skeleton.pairs or len(skeleton) < 3 or len(xy) < 3:
        return {}
    points = xy[..., 0] + 1j * xy[..., 1]
    shape = _common_shape(points)
    as_is, swapped = _distance(points, shape), _distance(points[:, skeleton.flip_permutation], shape)
    known = as_is[np.isfinite(as_is)]
    if not len(known):
        return {}
    with np.errstate(invalid="ignore"):
        whole = (as_is > _ODD * np.median(known) + 1e-6) & (swapped < _BETTER * as_is)
    found = dict.fromkeys(np.flatnonzero(whole).tolist(), "left and right may be swapped")
    aligned = _align(points, shape)
    for a, b in skeleton.pairs:
        left, right = skeleton.names.index(a), skeleton.names.index(b)
        usual = shape[left] - shape[right]
        with np.errstate(invalid="ignore"):
            along = ((aligned[:, left] - aligned[:, right]) * np.conj(usual)).real / np.abs(usual) ** 2
            turned = (along < -0.5) & ~whole
        if turned.any() and turned.sum() <= max(1, _RARE * np.isfinite(along).sum()):
            for index in np.flatnonzero(turned).tolist():
                found[index] = f"{found[index]}, {a} and {b}" if index in found else f"swapped? {a} and {b}"
    return found


def _common_shape(points: np.ndarray) -> np.ndarray:
    """Complex (K,): the median of the samples, each turned, scaled and moved onto it; NaN for a point none has."""
    shape = points[np.isfinite(points).sum(1).argmax()]
    for _ in range(4):
        aligned = _align(points, shape)
        with np.errstate(invalid="ignore"):
            known = np.isfinite(aligned)
            some = known.any(0)
            shape = np.full(len(shape), np.nan, complex)
            shape[some] = np.nanmedian(aligned.real[:, some], 0) + 1j * np.nanmedian(aligned.imag[:, some], 0)
    return shape


def _align(points: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Points (N, K) under the similarity that brings each sample nearest to the shape; NaN with under 3 points."""
    known = np.isfinite(points) & np.isfinite(shape)
    count = np.maximum(known.sum(1, keepdims=True), 1)
    z = np.where(known, points, 0)
    target = np.where(known, shape, 0)
    middle, goal = z.sum(1, keepdims=True) / count, target.sum(1, keepdims=True) / count
    z, target = np.where(known, z - middle, 0), np.where(known, target - goal, 0)
    power = (np.abs(z) ** 2).sum(1, keepdims=True)
    usable = (power > 0) & (known.sum(1, keepdims=True) >= 3)
    factor = (z.conj() * target).sum(1, keepdims=True) / np.where(usable, power, 1)
    aligned: np.ndarray = np.where(usable & np.isfinite(points), factor * (points - middle) + goal, np.nan)
    return aligned


def _distance(points: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Mean squared distance (N,) from the shape, as a share of the shape's own spread over the same points."""
    aligned = _align(points, shape)
    known = np.isfinite(aligned) & np.isfinite(shape)
    count = np.maximum(known.sum(1), 1)
    target = np.where(known, shape, 0)
    spread = (np.abs(np.where(known, target - target.sum(1, keepdims=True) / count[:, None], 0)) ** 2).sum(1)
    rest = (np.abs(np.where(known, aligned - shape, 0)) ** 2).sum(1)
    distance: np.ndarray = np.where(known.sum(1) >= 3, rest / np.where(spread > 0, spread, np.nan), np.nan)
    return distance
