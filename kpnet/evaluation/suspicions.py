"""Labels that disagree with a model that did not see them: what is wrong with each, and how it would be mended.

The errors of a prediction are a Student t with its calibrated covariance. Each explanation of a sample's labels (they
are right; left and right are swapped; two points are exchanged; the order is shifted or wrong; they belong to another
instance) has a likelihood under it and a prior, and the best one is reported with how much better it is. The
reordering that fits best is an assignment problem (Kuhn 1955, "The Hungarian method for the assignment problem").
Single points are judged by what is left of their error once the errors of the sample's other points are known, as
errors of one sample are correlated: a blurred mouth is wrong as a whole, a slipped click is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from kpnet.core.skeleton import Skeleton
from kpnet.evaluation.outliers import SLIPPED, correlate, find_outliers, shape_distances, whiten

SIDES, EXCHANGED, ORDER = "sides swapped", "points exchanged", "wrong order"
OFF, INSTANCE, MISSING = "off", "another instance", "missing"
NONE_FITS = "look at it: none of the labels fits"  # the note on labels of another instance that has no partner
KINDS = (SIDES, EXCHANGED, ORDER, OFF, INSTANCE, MISSING)


@dataclass(frozen=True)
class Suspicion:
    """A label, or several labels of one sample, that are probably wrong.

    Attributes:
        index: Index of the sample.
        kind: One of `KINDS`.
        points: Indices of the points concerned.
        z: Largest distance of these labels from their predictions, in standard deviations; NaN for a missing point.
        evidence: How much more likely the proposal is than the labels as they are, as a natural logarithm.
        proposal: The sample's points as they would be mended, float64 (K, 2) in pixels of the image.
        certain: Whether the proposal is clear enough to be written without a look at it.
        note: What the proposal is, in words.
    """

    index: int
    kind: str
    points: tuple[int, ...]
    z: float
    evidence: float
    proposal: np.ndarray
    certain: bool
    note: str


_PRIOR = math.log(200)  # one sample in 200 has an error of each kind, before anything is seen
_STAY = 3.0  # what a label has to gain before it is moved to another point at all
_FITS = 12.0  # mean squared distance, in variances, above which mended labels do not fit either
_CANDIDATE = 4.0  # standard deviations from the prediction at which the shape is asked about a single label
_OFF, _CLEARLY_OFF = 20.0, 60.0  # product with the distance in the shape: reported, and mended without a look
_STRANGE = 5.0  # mean squared distance, in variances, of labels that are on another instance
_USUAL, _NEARLY_ALWAYS = 0.5, 0.9  # share of the samples that have a point, above which it is missed in the others
_SEEN, _CLEARLY_SEEN = 0.9, 0.99  # confidence at which a missing point is there, and is added without a look


@dataclass(frozen=True)
class _Case:
    """A sample's labels and predictions: K points, of which some are labelled."""

    index: int
    labels: np.ndarray  # (K, 2)
    predicted: np.ndarray  # (K, 2)
    squared: np.ndarray  # (K, K): squared distance of each label from each prediction, in variances
    surprise: np.ndarray  # (K, K): its negative log-likelihood

    @property
    def labelled(self) -> np.ndarray:
        return np.isfinite(self.labels).all(-1)


def find_suspicions(
    labels: np.ndarray,
    predicted: np.ndarray,
    covariance: np.ndarray,
    dof: float | None,
    skeleton: Skeleton,
    *,
    confidence: np.ndarray | None = None,
    images: Sequence[str] | None = None,
) -> list[Suspicion]:
    """Find labels that are probably wrong.

    Args:
        labels: Labelled points (N, K, 2) in pixels, NaN where absent.
        predicted: The points (N, K, 2) that a model predicts which was not trained on these labels.
        covariance: Its calibrated covariances (N, K, 2, 2), in squared pixels.
        dof: Degrees of freedom of the errors; None for normal ones.
        skeleton: The points, whose left/right pairs may be swapped.
        confidence: Confidence of each predicted point (N, K), for missing ones; None: these are not looked for.
        images: The image of each sample (N,): labels of instances of one image may be exchanged. None: all differ.

    Returns:
        The suspicions, the one with most evidence first. A sample may have several, of different points.
    """
    dof = math.inf if dof is None else dof
    cases = [_case(i, labels[i], predicted[i], covariance[i], dof) for i in range(len(labels))]
    cases = [case for case in cases if case.labelled.any()]
    found = [] if images is None else _exchanged_instances(cases, covariance, dof, images)
    taken = {each.index for each in found}
    orders = [_wrong_order(case, skeleton) for case in cases if case.index not in taken]
    found += [each for each in orders if each is not None]
    taken = {each.index for each in found}
    others = [case for case in cases if case.index not in taken]
    # A covariance of a Student t is widened by its tails; that of its middle is the t's own matrix.
    middle = covariance if math.isinf(dof) else covariance * ((dof - 2) / dof)
    found += _single_points(others, whiten(labels - predicted, middle), dof, skeleton)
    if confidence is not None:
        odd = {each.index for each in found}
        found += _missing([case for case in others if case.index not in odd], cases, confidence, skeleton)
    return sorted(found, key=lambda each: -each.evidence)


def _case(index: int, labels: np.ndarray, predicted: np.ndarray, covariance: np.ndarray, dof: float) -> _Case:
    delta = labels[:, None] - predicted
    xx, xy, yy = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
    determinant = xx * yy - xy * xy
    squared = (yy * delta[..., 0] ** 2 - 2 * xy * delta[..., 0] * delta[..., 1] + xx * delta[..., 1] ** 2) / determinant
    scale = 0.0 if math.isinf(dof) else math.log((dof - 2) / dof)
    return _Case(index, labels, predicted, squared, _tail(squared, dof) + 0.5 * np.log(determinant) + scale)


def _tail(squared: Any, dof: float) -> Any:
    """Return how much less likely an error at this squared distance is than none, as a logarithm."""
    return squared / 2 if math.isinf(dof) else (dof + 2) / 2 * np.log1p(squared / (dof - 2))


def _wrong_order(case: _Case, skeleton: Skeleton) -> Suspicion | None:
    """Return the reordering of a sample's labels that explains them best, if one does better than none."""
    there = np.flatnonzero(case.labelled)
    if len(there) < 2:
        return None
    as_is = case.surprise[there, there].sum()
    best: tuple[float, float, np.ndarray] | None = None
    for prior, order in _orders(case, there, skeleton):
        cost = case.surprise[there, order[there]].sum() + prior
        if cost < as_is and (best is None or cost < best[0]):
            best = cost, prior, order
    if best is None:
        return None
    order = best[2]
    moved = there[order[there] != there]
    after = case.squared[moved, order[moved]]
    if after.mean() > _FITS:
        return None
    proposal = np.full_like(case.labels, np.nan)
    proposal[order[there]] = case.labels[there]
    kind, note = _describe_order(order, moved, skeleton)
    evidence = float(as_is - best[0])
    z = float(np.sqrt(case.squared[moved, moved].max()))
    points = tuple(sorted({*moved.tolist(), *order[moved].tolist()}))
    certain = bool(evidence > _PRIOR and after.mean() < _FITS / 2)
    return Suspicion(case.index, kind, points, z, evidence, proposal, certain, note)


def _orders(case: _Case, there: np.ndarray, skeleton: Skeleton) -> list[tuple[float, np.ndarray]]:
    """Return the ways to reorder the labels: minus the log of their prior, and the point that each label is of."""
    count = len(skeleton)
    ways = []
    if skeleton.pairs:
        ways.append((_PRIOR, np.array(skeleton.flip_permutation)))
    ways += [(_PRIOR + math.log(count), np.roll(np.arange(count), shift)) for shift in range(1, count)]
    cost = case.surprise[there].copy()
    cost[np.arange(len(there)), there] -= _STAY
    rows, columns = linear_sum_assignment(cost)
    order = np.arange(count)
    order[there[rows]] = columns
    chains = [chain for chain in _chains(order, there) if _gain(case, chain, order) > _log_ways(len(chain), count)]
    kept = np.arange(count)
    for chain in chains:
        kept[chain] = order[chain]
    if chains:
        ways.append((_PRIOR + sum(_log_ways(len(chain), count) for chain in chains), kept))
    return ways


def _chains(order: np.ndarray, there: np.ndarray) -> list[list[int]]:
    """Return the labels that move together: in a circle, or in a line that ends at a point without a label."""
    moved = [int(k) for k in there if order[k] != k]
    reached = set(order[moved].tolist())
    left, chains = set(moved), []
    for start in sorted(moved, key=lambda k: k in reached):  # the beginnings of lines first
        chain, k = [], start
        while k in left:
            left.remove(k)
            chain.append(k)
            k = int(order[k])
        if chain:
            chains.append(chain)
    return chains


def _gain(case: _Case, chain: list[int], order: np.ndarray) -> float:
    return float((case.surprise[chain, chain] - case.surprise[chain, order[chain]]).sum())


def _log_ways(moved: int, count: int) -> float:
    """Return the logarithm of the number of ways to choose and order the points that move."""
    return math.lgamma(count + 1) - math.lgamma(count - moved + 1) - math.log(moved)


def _describe_order(order: np.ndarray, moved: np.ndarray, skeleton: Skeleton) -> tuple[str, str]:
    names, count = skeleton.names, len(order)
    mirror = np.array(skeleton.flip_permutation)
    if len(moved) > 2 and (order[moved] == mirror[moved]).all():
        return SIDES, "swap left and right" + ("" if len(moved) == (mirror != np.arange(count)).sum() else " of some")
    if len(moved) == 1:
        return ORDER, f"{names[moved[0]]} is {names[order[moved[0]]]}"
    if len(moved) == 2 and order[order[moved[0]]] == moved[0]:
        return EXCHANGED, f"exchange {names[moved[0]]} and {names[moved[1]]}"
    shifts = {int(s) for s in (order[moved] - moved) % count}
    if len(shifts) == 1 and len(moved) > 2:
        shift = shifts.pop()
        return ORDER, f"shift the points by {shift if shift <= count // 2 else shift - count}"
    return ORDER, f"reorder {len(moved)} points"


def _single_points(cases: list[_Case], whitened: np.ndarray, dof: float, skeleton: Skeleton) -> list[Suspicion]:
    """Return single labels that are off, and samples whose labels are all of another instance."""
    if not cases:
        return []
    correlation = correlate(whitened[[case.index for case in cases]])
    shape = shape_distances(np.stack([case.labels for case in cases]))
    found = []
    for case, oddness in zip(cases, shape, strict=True):
        off, rest = find_outliers(whitened[case.index], correlation)
        count = int(case.labelled.sum())
        if count > 1 and (rest > _STRANGE or len(off) > count / 2):
            found.append(_strange(case, rest, dof))
            continue
        for k, z in find_outliers(whitened[case.index], correlation, _CANDIDATE)[0].items():
            # A model fails where a mouth is covered, and the label fits its neighbours; a slipped click fits neither.
            product = z * (oddness[k] if np.isfinite(oddness[k]) else _OFF / SLIPPED)
            if product < _OFF:
                continue
            proposal = case.labels.copy()
            proposal[k] = case.predicted[k]
            note = f"move {skeleton.names[k]} by {np.linalg.norm(case.predicted[k] - case.labels[k]):.1f} px"
            evidence, certain = float(_tail(z * z, dof)) - _PRIOR, bool(product > _CLEARLY_OFF)
            found.append(Suspicion(case.index, OFF, (k,), z, evidence, proposal, certain, note))
    return found


def _strange(case: _Case, rest: float, dof: float) -> Suspicion:
    there = np.flatnonzero(case.labelled)
    z = float(np.sqrt(case.squared[there, there].max()))
    proposal = np.where(case.labelled[:, None], case.predicted, np.nan)
    evidence, note = len(there) * float(_tail(2 * rest, dof)) - _PRIOR, NONE_FITS
    return Suspicion(case.index, INSTANCE, tuple(there.tolist()), z, evidence, proposal, False, note)


def _exchanged_instances(
    cases: list[_Case], covariance: np.ndarray, dof: float, images: Sequence[str]
) -> list[Suspicion]:
    """Return the instances of one image whose labels fit one another's predictions."""
    groups: dict[str, list[_Case]] = {}
    for case in cases:
        groups.setdefault(images[case.index], []).append(case)
    found = []
    for group in groups.values():
        # The labels of each instance (row) beside the prediction of each (column).
        crossed = [[_case(b.index, a.labels, b.predicted, covariance[b.index], dof) for b in group] for a in group]
        cost = np.array([[_as_they_are(each) for each in row] for row in crossed])
        labels, places = linear_sum_assignment(cost)
        moved = np.flatnonzero(labels != places)
        gain = float((cost[moved, moved] - cost[moved, places[moved]]).sum()) if len(moved) else 0.0
        evidence = gain - _PRIOR - math.lgamma(len(group) + 1)
        if evidence <= 0:
            continue
        fits = [
            (crossed[row][column], group[column], row, column) for row, column in zip(moved, places[moved], strict=True)
        ]
        if any(np.nanmean(np.diag(fit.squared)) > _FITS for fit, *_ in fits):
            continue
        for fit, here, row, column in fits:
            points = np.flatnonzero(here.labelled | fit.labelled)
            z = float(np.sqrt(np.nanmax(np.diag(here.squared))))
            note = f"labels of instance {column} of the image are those of {row}"
            found.append(
                Suspicion(
                    here.index, INSTANCE, tuple(points.tolist()), z, evidence, fit.labels, evidence > _PRIOR, note
                )
            )
    return found


def _as_they_are(case: _Case) -> float:
    there = np.flatnonzero(case.labelled)
    return float(case.surprise[there, there].sum())


def _missing(cases: list[_Case], every: list[_Case], confidence: np.ndarray, skeleton: Skeleton) -> list[Suspicion]:
    """Return points without a label that most samples have, and of which the model is sure."""
    share = np.mean([case.labelled for case in every], axis=0)
    found = []
    for case in cases:
        for k in np.flatnonzero(~case.labelled & (share >= _USUAL)).tolist():
            sure = float(confidence[case.index, k])
            if sure < _SEEN:
                continue
            proposal = case.labels.copy()
            proposal[k] = case.predicted[k]
            certain = sure >= _CLEARLY_SEEN and bool(share[k] >= _NEARLY_ALWAYS)
            evidence = math.log(sure / max(1 - sure, 1e-6)) - math.log(9)
            note = f"add {skeleton.names[k]}"
            found.append(Suspicion(case.index, MISSING, (k,), math.nan, evidence, proposal, certain, note))
    return found
