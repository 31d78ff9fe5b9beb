"""Single labels that stand out from the errors of their sample, which are correlated."""

from __future__ import annotations

import math

import numpy as np

from kpnet.data.check import align_to_shape, common_shape

SLIPPED = 5.5  # standard deviations at which a single label stands out
_CLIP = 3.0  # standard deviations to which errors are clipped before they are correlated
_SHRINK = 0.05  # least weight of no correlation at all
_LEAST_VARIANCE, _LEAST_EIGENVALUE = 0.1, 0.02  # of whitened errors, whose variance is about 1
_LEAST_POINTS = 4  # that say more of a shape than where it is
_NORMAL = 1.4826  # standard deviations in a median absolute deviation of normal errors
_MEDIAN = 2 * math.log(2)  # of the squared distance of normal errors in two dimensions


def whiten(errors: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return errors in standard deviations along the axes of their covariances.

    Args:
        errors: Errors (N, K, 2), NaN where a point has no label.
        covariance: Covariances (N, K, 2, 2) in the squared unit.

    Returns:
        Float64 (N, K, 2), NaN where a point has no label.
    """
    whitened: np.ndarray = np.linalg.solve(np.linalg.cholesky(covariance), errors[..., None])[..., 0]
    return whitened


def correlate(whitened: np.ndarray) -> np.ndarray:
    """Return the covariance of the errors of a sample, with outliers clipped, and shrunk where samples are few.

    Args:
        whitened: Errors (N, K, 2) of `whiten`.

    Returns:
        Float64 (2 K, 2 K), positive definite.
    """
    size = np.linalg.norm(whitened, axis=-1, keepdims=True)
    clipped = np.nan_to_num(whitened * np.minimum(1, _CLIP / np.maximum(size, 1e-12)))
    flat = clipped.reshape(len(clipped), -1)
    known = np.isfinite(whitened).reshape(flat.shape).astype(float)
    together = flat.T @ flat / np.maximum(known.T @ known, 1)
    weight = min(1.0, max(_SHRINK, flat.shape[1] / max(len(flat), 1)))
    mixed = (1 - weight) * together + weight * np.diag(np.maximum(np.diag(together), _LEAST_VARIANCE))
    values, vectors = np.linalg.eigh(mixed)
    definite: np.ndarray = (vectors * np.maximum(values, _LEAST_EIGENVALUE)) @ vectors.T
    return definite


def find_outliers(
    whitened: np.ndarray, correlation: np.ndarray, least: float = SLIPPED
) -> tuple[dict[int, float], float]:
    """Return the labels of a sample that stand out from its others, the farthest first.

    Each error is compared with what the others let expect, in a unit that is larger in a sample whose errors are all
    large. One label after another is removed, until none stands out or half of them are gone.

    Args:
        whitened: Errors (K, 2) of `whiten`, NaN where a point has no label; one label at least.
        correlation: Their covariance (2 K, 2 K), see `correlate`.
        least: Standard deviations at which a label stands out.

    Returns:
        Index of each label that stands out to its distance in standard deviations; and the mean square of what is left
        of the others' errors, 1 on average.
    """
    left = np.flatnonzero(np.isfinite(whitened).all(-1)).tolist()
    most, off = len(left) / 2, dict[int, float]()
    while True:
        squared, rest = _given_others(whitened, left, correlation)
        difficulty = max(1.0, float(np.median(squared)) / _MEDIAN) if len(left) > 2 else 1.0
        worst = int(squared.argmax())
        far = math.sqrt(squared[worst] / difficulty)
        if far < least:
            return off, rest
        off[left.pop(worst)] = far
        if not left or len(off) > most:
            return off, rest


def shape_distances(labels: np.ndarray) -> np.ndarray:
    """Return how odd the place of each label is in the shape of its sample, without looking at the image.

    The samples are aligned by similarity transforms, and each label is compared with what the sample's others let
    expect.

    Args:
        labels: Labelled points (N, K, 2) in pixels, NaN where absent.

    Returns:
        Distances (N, K) in standard deviations; NaN where absent, and for samples of fewer than 4 labels.
    """
    points = labels[..., 0] + 1j * labels[..., 1]
    rest = align_to_shape(points, shape := common_shape(points)) - shape
    rest = np.where(np.isfinite(rest)[..., None], np.stack([rest.real, rest.imag], axis=-1), np.nan)
    distances = np.full(labels.shape[:2], np.nan)
    enough = np.flatnonzero(np.isfinite(rest).all(-1).sum(-1) >= _LEAST_POINTS)
    if not len(enough):
        return distances
    rest = rest[enough]
    seen = np.isfinite(rest).any((0, 2))
    scale = np.ones(rest.shape[1:])
    scale[seen] = np.maximum(_NORMAL * np.nanmedian(np.abs(rest[:, seen]), axis=0), 1e-9)
    rest = rest / scale
    correlation = correlate(rest)
    for index, errors in zip(enough, rest, strict=True):
        left = np.flatnonzero(np.isfinite(errors).all(-1)).tolist()
        distances[index, left] = np.sqrt(_given_others(errors, left, correlation)[0])
    return distances


def _given_others(whitened: np.ndarray, left: list[int], correlation: np.ndarray) -> tuple[np.ndarray, float]:
    """Return each error's squared distance from what the others let expect (n,), and that of all together by 2 n."""
    columns = np.array([[2 * k, 2 * k + 1] for k in left]).ravel()
    precision = np.linalg.inv(correlation[np.ix_(columns, columns)])
    flat, every = whitened[left].ravel(), np.arange(len(left))
    pulled = (precision @ flat).reshape(-1, 2)
    own = precision.reshape(len(left), 2, len(left), 2)[every, :, every]  # (n, 2, 2)
    squared = (pulled * np.linalg.solve(own, pulled[..., None])[..., 0]).sum(-1)
    return squared, float(flat @ precision @ flat) / len(flat)
