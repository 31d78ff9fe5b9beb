"""Link the instances of a video over time: one identity for each."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.inference.motion import Motion
from kpnet.inference.prediction import Prediction
from kpnet.oks import sigmas_of

BRIDGED = 30  # frames for which an unseen instance is expected where its motion leads
KEPT = 64  # identities in memory; those that have not been seen for longest are forgotten
CLUTTER = 1e-3  # likelihood of a wrong point, relative to that of a point at its place
GATE = 0.1  # similarity below which an instance is not where it was expected
MARGIN = 1.0  # difference of the costs of two assignments below which the better one is a guess
REACH = (1.0, 0.1, 5.0)  # distance at which an identity is taken up again, in sizes: at once, more per frame, at most
GROWTH = 1.5  # ratio of the sizes of an instance before and after
CONFIRMED = 3  # frames after which an identity that was taken up far from where it was is not expected there any more
NOISE = 0.2  # least standard deviation of a point, relative to the one that OKS allows for labels
MIN_SIZE = 10.0  # pixels
_FORBIDDEN = 1e6


class _Found(NamedTuple):
    """N instances of a frame."""

    points: np.ndarray  # (N, K, 2)
    noise: np.ndarray  # (N, K, 2, 2)
    size: np.ndarray  # (N,)

    def rows(self, at: np.ndarray) -> _Found:
        return _Found(self.points[at], self.noise[at], self.size[at])


class Tracker:
    """Gives the instances of one video identities, frame by frame.

    A Kalman filter predicts each identity's points. Its noise is the covariance of the points, so that a hidden point,
    whose covariance is large, neither moves a track nor decides whose it is. Instances are assigned to identities by
    the object keypoint similarity (OKS) between predicted and found points, widened by both covariances; the
    assignment of the highest likelihood is taken (Hungarian method). An identity that is not seen is expected where its
    motion leads, for 30 frames. Later, or where it moved abruptly, it is taken up again by an instance of its size
    nearby.

    Args:
        skeleton: The points; its `sigmas` say how exact OKS is. Without any, 0.05 for all.
        max_instances: Never give more identities than this. Each frame's instances of the highest scores are used, and
            an instance that fits no identity is given the nearest one that is free. None: as many as there are.

    Attributes:
        uncertain: Bool (N,) for the instances of the last frame: whether the identity is a guess, as another
            assignment is nearly as likely, or as it was taken up after a long absence or far from where it was.

    Raises:
        KpnetError: `max_instances` is below 1.

    Example:
        ```python
        tracker = Tracker(predictor.model.skeleton, max_instances=2)
        for prediction in predictor.track(video.frames()):
            ids = tracker.update(prediction)
        ```
    """

    def __init__(self, skeleton: Skeleton, *, max_instances: int | None = None) -> None:
        if max_instances is not None and max_instances < 1:
            raise KpnetError(f"max_instances: expected a number of at least 1, found {max_instances}")
        self.max_instances = max_instances
        self.uncertain = np.zeros(0, bool)
        self._sigmas = np.array(sigmas_of(skeleton))
        self._count = 0
        none = np.zeros((0, len(skeleton.names), 2))
        # Filters: an identity has two of them while it is unclear which of two places it is at, the older one first.
        self._motion = Motion.start(none, np.zeros((*none.shape, 2)), np.zeros(0))
        self._ids, self._missed, self._hits = (np.zeros(0, int) for _ in range(3))

    def update(self, prediction: Prediction) -> np.ndarray:
        """Return the identities of the instances of the next frame.

        Args:
            prediction: The frame's instances, in pixels.

        Returns:
            Identities (N,), numbers from 0 on in the order in which they appear; -1 for an instance that has no finite
            point, or is not among the best `max_instances`.
        """
        points = np.asarray(prediction.keypoints, np.float64)
        ids = np.full(len(points), -1)
        self.uncertain = np.zeros(len(points), bool)
        used = np.flatnonzero(np.isfinite(points).all(-1).any(-1))
        if prediction.scores is not None:
            used = used[np.argsort(-prediction.scores[used], kind="stable")]
        used = used[: self.max_instances]
        found = self._measure(prediction, points, used)
        self._motion.predict(self._missed > 0)
        self._missed += 1
        own, guessed = np.full(len(used), -1), np.zeros(len(used), bool)
        self._follow(found, own, guessed)
        self._resume(found, own, guessed)
        self._begin(found, own, guessed)
        self._forget()
        ids[used], self.uncertain[used] = own, guessed
        return ids

    def _measure(self, prediction: Prediction, points: np.ndarray, used: np.ndarray) -> _Found:
        """Return the instances in use with their noise and sizes."""
        covariance = None if prediction.covariance is None else np.asarray(prediction.covariance, np.float64)[used]
        size = _sizes(points[used], covariance)
        allowed = np.square(self._sigmas * size[:, None])[..., None, None] * np.eye(2)
        noise = allowed if covariance is None else covariance + NOISE**2 * allowed
        return _Found(points[used], noise, size)

    def _follow(self, found: _Found, own: np.ndarray, guessed: np.ndarray) -> None:
        """Assign instances to the identities that are expected where they are."""
        near = np.flatnonzero(self._missed <= BRIDGED)
        if not len(near) or not len(own):
            return
        cost = self._costs(self._motion.keep(near), found)
        identities, filters, cost = _best_filters(self._ids[near], near, cost)
        rows, columns = linear_sum_assignment(cost)
        close = cost[rows, columns] < _FORBIDDEN
        rows, columns = rows[close], columns[close]
        guessed[columns] = _nearly_as_good(cost, rows, columns)
        own[columns] = identities[rows]
        chosen = filters[rows, columns]
        self._motion.update(chosen, *found.rows(columns))
        self._missed[chosen] = 0
        self._hits[chosen] += 1

    def _costs(self, motion: Motion, found: _Found) -> np.ndarray:
        """Return the costs (M, N) of assigning found instances to filters: negative log likelihoods per point."""
        expected, expected_cov = motion.points()
        area = motion.size[:, None] * found.size
        scale = 4 * np.square(self._sigmas) * area[..., None]  # OKS of a distance d is exp(-d² / (2 scale))
        known = found.noise + scale[..., None, None] * np.eye(2)
        both = known + expected_cov[:, None]
        apart = found.points - expected[:, None]
        seen = np.isfinite(apart).all(-1)
        apart = np.where(seen[..., None], apart, 0)
        squared = (apart[..., None, :] @ np.linalg.solve(both, apart[..., None]))[..., 0, 0]
        # The expectation of OKS if both places are normally distributed, relative to the best that could be found.
        weight, most = (seen * scale / np.sqrt(np.linalg.det(each)) for each in (both, known))
        near = np.exp(-squared / 2)
        similarity = (most * near).sum(-1) / most.sum(-1)
        ratio = np.divide(weight * near, most, out=np.ones_like(near), where=seen)
        cost = -np.log((1 - CLUTTER) * ratio + CLUTTER).mean(-1)
        return np.where(similarity > GATE, cost, _FORBIDDEN)

    def _resume(self, found: _Found, own: np.ndarray, guessed: np.ndarray) -> None:
        """Assign instances to identities that were lost, or moved abruptly, nearby."""
        left = np.flatnonzero(own < 0)
        free = np.flatnonzero(~np.isin(self._ids, own))
        if not len(left) or not len(free):
            return
        at = np.nanmean(np.where(np.isfinite(found.points[left]), found.points[left], np.nan), 1)
        apart = np.hypot(*np.moveaxis(self._motion.centre[free, None, :2] - at, -1, 0)) / self._motion.size[free, None]
        reach = np.minimum(REACH[0] + REACH[1] * self._missed[free], REACH[2])[:, None]
        growth = np.abs(np.log(found.size[left] / self._motion.size[free, None]))
        cost = np.where((apart <= reach) & (growth <= math.log(GROWTH)), apart / reach + growth, _FORBIDDEN)
        identities, filters, cost = _best_filters(self._ids[free], free, cost)
        rows, columns = linear_sum_assignment(cost)
        close = cost[rows, columns] < _FORBIDDEN
        others = (cost < _FORBIDDEN).sum(0)[columns] + (cost < _FORBIDDEN).sum(1)[rows] > 2
        for row, column, several in zip(rows[close], columns[close], others[close], strict=True):
            j, chosen = left[column], filters[row, column]
            own[j] = identities[row]
            guessed[j] = several or (self._missed[chosen] > BRIDGED and not self._is_last(own))
            self._motion.restart(chosen, *found.rows(np.array([j])))
            self._missed[chosen] = 0
            self._hits[chosen] += 1

    def _is_last(self, own: np.ndarray) -> bool:
        """Return whether all identities that may be given are seen in this frame."""
        return self.max_instances is not None and len(np.unique(own[own >= 0])) == self.max_instances

    def _begin(self, found: _Found, own: np.ndarray, guessed: np.ndarray) -> None:
        """Give the instances that are left new identities, or, if there may be no more, free ones."""
        for j in np.flatnonzero(own < 0):
            if self.max_instances is None or self._count < self.max_instances:
                own[j] = self._count
                self._count += 1
            else:
                free = np.flatnonzero(~np.isin(self._ids, own))
                apart = self._motion.centre[free, :2] - np.nanmean(found.points[j], 0)
                own[j] = self._ids[free[np.square(apart).sum(-1).argmin()]]
                guessed[j] = True
            self._motion = self._motion.join(Motion.start(*found.rows(np.array([j]))))
            self._ids = np.append(self._ids, own[j])
            self._missed, self._hits = np.append(self._missed, 0), np.append(self._hits, 1)

    def _forget(self) -> None:
        """Decide between two filters of an identity, and forget the identities that were not seen for longest."""
        keep = np.ones(len(self._ids), bool)
        for identity in np.unique(self._ids):
            older, *younger = np.flatnonzero(self._ids == identity)
            if younger and (self._hits[younger[-1]] >= CONFIRMED and not self._missed[younger[-1]]):
                keep[[older, *younger[:-1]]] = False
            elif younger and (self._missed[younger[-1]] or not self._missed[older]):
                keep[younger] = False
            else:
                keep[younger[:-1]] = False
        if self.max_instances is None and keep.sum() > KEPT:
            seen = self._missed == 0
            order = np.argsort(self._missed, kind="stable")
            keep &= seen | np.isin(np.arange(len(keep)), order[:KEPT])
        self._motion = self._motion.keep(keep)
        self._ids, self._missed, self._hits = self._ids[keep], self._missed[keep], self._hits[keep]


def _best_filters(ids: np.ndarray, filters: np.ndarray, cost: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return identities (U,) and, of the filters of each, the best one and its cost for each instance, (U, N)."""
    identities, at = np.unique(ids, return_inverse=True)
    best = np.zeros((len(identities), cost.shape[1]), int)
    for u in range(len(identities)):
        rows = np.flatnonzero(at == u)
        best[u] = rows[cost[rows].argmin(0)]
    return identities, filters[best], np.take_along_axis(cost, best, 0)


def _nearly_as_good(cost: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return whether each pair of an assignment could be another one at nearly the same cost."""
    pairs = cost[np.ix_(rows, columns)]
    own = pairs.diagonal()
    swapped = pairs + pairs.T - own - own[:, None]
    np.fill_diagonal(swapped, np.inf)
    idle = np.delete(cost, rows, 0)[:, columns] - own
    return np.asarray((swapped < MARGIN).any(1) | (idle < MARGIN).any(0))


def _sizes(points: np.ndarray, covariance: np.ndarray | None) -> np.ndarray:
    """Return the roots of the areas (N,) of instances: the sides of squares as wide as the points that are certain."""
    seen = np.isfinite(points).all(-1)
    weight = seen.astype(float)
    if covariance is not None:
        variance = np.where(seen, np.trace(covariance, axis1=-2, axis2=-1), np.nan)
        weight = np.nan_to_num(1 / (variance + np.nanmedian(variance, 1, keepdims=True)))
    weight /= weight.sum(1, keepdims=True)
    points = np.where(seen[..., None], points, 0)
    apart = points - (weight[..., None] * points).sum(1, keepdims=True)
    return np.maximum(np.sqrt(6 * (weight * np.square(apart).sum(-1)).sum(1)), MIN_SIZE)
