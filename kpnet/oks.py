"""Object keypoint similarity, and COCO's average precision over it (https://cocodataset.org/#keypoints-eval).

Agrees with pycocotools for one category without crowds. Points are in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

THRESHOLDS = np.linspace(0.50, 0.95, 10)
AREAS = np.array([(0, 1e5), (32, 96), (96, 1e5)]) ** 2.0  # all, medium, large
# S = 30 settings, a threshold and an area range each, are matched separately.
LIMITS = np.tile(THRESHOLDS, len(AREAS))[:, None]
LOW, HIGH = AREAS.repeat(len(THRESHOLDS), axis=0).T[..., None]
RECALLS = np.linspace(0, 1, 101)
MAX_DETECTIONS = 20  # per image, those of the highest scores
UNKNOWN_SIGMA = 0.05
"""The sigma of every point of a skeleton without any: between those of COCO's wrists and elbows and its eyes."""


class _Image(NamedTuple):
    """D detections and G instances of K points, in float64."""

    predicted: Tensor  # (D, K, 2)
    scores: Tensor  # (D,)
    target: Tensor  # (G, K, 2)
    visible: Tensor  # bool (G, K)
    area: Tensor  # (G,)
    boxes: Tensor | None  # (G, 4)


def oks(predicted: Tensor, target: Tensor, visible: Tensor, area: Tensor, sigmas: Sequence[float] | Tensor) -> Tensor:
    """Return the object keypoint similarity: the mean over visible points of exp(-d² / (2 area (2 sigma)²)).

    Args:
        predicted: Predicted points (N, K, 2) in pixels; NaN counts as infinitely wrong.
        target: True points (N, K, 2) in pixels; absent points may be anything.
        visible: Bool (N, K).
        area: Areas (N,) of the objects' segments or boxes, in square pixels.
        sigmas: Constants (K,) of the keypoints, as in the skeleton's `sigmas`.

    Returns:
        Similarities (N,), NaN where no point is visible or the area is negative or not finite.

    Raises:
        ValueError: If shapes do not fit, or a sigma is not above 0.
    """
    shape, count = tuple(predicted.shape), tuple(area.shape)
    sigma = torch.as_tensor(sigmas, dtype=predicted.dtype, device=predicted.device)
    fits = predicted.shape == target.shape == (*count, len(sigma), 2) and visible.shape == shape[:2] and len(count) == 1
    if not fits or visible.dtype != torch.bool:
        raise ValueError(
            f"expected points (N, K, 2) twice, bool (N, K), area (N,) and sigmas (K,), got {shape}, "
            f"{tuple(target.shape)}, {visible.dtype} {tuple(visible.shape)}, {count} and {tuple(sigma.shape)}"
        )
    return _similarity(predicted - target, visible, area, sigma)


class _Skeleton(Protocol):
    @property
    def names(self) -> Sequence[str]: ...
    @property
    def sigmas(self) -> Sequence[float] | None: ...


def sigmas_of(skeleton: _Skeleton) -> list[float]:
    """Return the constants of a skeleton's keypoints: its `sigmas`, or `UNKNOWN_SIGMA`, 0.05, for all if it has none.

    Args:
        skeleton: A `kpnet.Skeleton`; where its `sigmas` is None, what is reported of the OKS should say so.

    Returns:
        Constants (K,).
    """
    return [UNKNOWN_SIGMA] * len(skeleton.names) if skeleton.sigmas is None else list(skeleton.sigmas)


def pairwise_oks(
    predicted: Tensor, target: Tensor, visible: Tensor, area: Tensor, sigmas: Sequence[float] | Tensor
) -> Tensor:
    """Return the object keypoint similarity of every prediction with every instance; see `oks`.

    Args:
        predicted: Predicted points (N, K, 2) in pixels.
        target: True points (M, K, 2) in pixels; absent points may be anything.
        visible: Bool (M, K).
        area: Areas (M,) of the true objects, in square pixels.
        sigmas: Constants (K,) of the keypoints.

    Returns:
        Similarities (N, M), NaN where no point of the instance is visible or its area is negative or not finite.

    Raises:
        ValueError: If shapes do not fit, or a sigma is not above 0.
    """
    sigma = torch.as_tensor(sigmas, dtype=predicted.dtype, device=predicted.device)
    points, instances = len(sigma), len(area)
    shapes = [tuple(each.shape) for each in (predicted, target, visible, area)]
    expected = [(len(predicted), points, 2), (instances, points, 2), (instances, points), (instances,)]
    if shapes != expected or visible.dtype != torch.bool:
        raise ValueError(
            f"expected points (N, {points}, 2), points (M, {points}, 2), bool (M, {points}) and area (M,), got {shapes}"
        )
    return _similarity(predicted[:, None] - target, visible, area, sigma)


def suppress_by_oks(
    points: Tensor, scores: Tensor, area: Tensor, sigmas: Sequence[float] | Tensor, threshold: float = 0.9
) -> Tensor:
    """Return which detections of an image are kept where several are of one instance: greedily, the best first.

    A detection is dropped if its OKS with one that is kept, of whose area, is above the threshold. Instances that only
    lie close to each other have another point each, and both stay.

    Args:
        points: Points (N, K, 2) of the detections, in pixels.
        scores: Scores (N,).
        area: Areas (N,) of the detections' boxes, in square pixels.
        sigmas: Constants (K,) of the keypoints.
        threshold: Similarity above which two detections are one instance.

    Returns:
        Indices of the detections that are kept, best first; of equal scores the first is better.

    Raises:
        ValueError: If shapes do not fit, or a sigma is not above 0.
    """
    everything = torch.ones(points.shape[:2], dtype=torch.bool, device=points.device)
    same = (pairwise_oks(points, points, everything, area, sigmas) > threshold).T.cpu()  # NaN is never above
    free, kept = torch.ones(len(points), dtype=torch.bool), []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if free[i]:
            kept.append(i)
            free &= ~same[i]
    return torch.tensor(kept, dtype=torch.long, device=points.device)


def _similarity(delta: Tensor, visible: Tensor, area: Tensor, sigma: Tensor) -> Tensor:
    """Return similarities (…,) of differences (…, K, 2); the rest broadcasts."""
    if sigma.ndim != 1 or not (sigma > 0).all():
        raise ValueError(f"expected sigmas (K,) above 0, got {sigma.tolist()}")
    # The epsilon is pycocotools': an object without area is matched by the exact points alone.
    exponent = delta.square().sum(-1) / (8 * sigma.square() * (area[..., None] + np.spacing(1)))
    near = torch.where(visible, (-exponent).exp().nan_to_num(nan=0), 0).sum(-1)
    return torch.where(area.isfinite() & (area >= 0), near / visible.sum(-1), torch.nan)


def oks_ap(
    predicted: Sequence[Any],
    scores: Sequence[Any],
    target: Sequence[Any],
    visible: Sequence[Any],
    area: Sequence[Any],
    sigmas: Sequence[float] | Tensor,
    boxes: Sequence[Any] | None = None,
    max_detections: int = MAX_DETECTIONS,
) -> dict[str, float]:
    """Compute COCO's average precision and recall over the object keypoint similarity.

    Images may have any number of detections D and instances G. Each argument but `sigmas` has one entry per image, an
    array or a tensor. An instance without a visible point is neither found nor missed; with `boxes`, a detection within
    twice its box does not count as an error either, without them it does.

    Args:
        predicted: Points (D, K, 2) of the detections, in pixels.
        scores: Scores (D,) of the detections.
        target: Points (G, K, 2) of the instances, in pixels.
        visible: Bool (G, K).
        area: Areas (G,) of the instances, in square pixels.
        sigmas: Constants (K,) of the keypoints.
        boxes: Boxes (G, 4) of the instances as x0, y0, x1, y1.
        max_detections: Detections of each image that count, those of the highest scores.

    Returns:
        AP and AR, means over the thresholds 0.50:0.05:0.95; AP50, AP75, AR50 and AR75, at one threshold; APM, APL, ARM
        and ARL, for areas from 32² to 96² and above. NaN where there is no instance to find.

    Raises:
        ValueError: If shapes do not fit, an area is negative or not finite, or a score is NaN.
    """
    sigma = torch.as_tensor(sigmas, dtype=torch.float64)
    given = zip(predicted, scores, target, visible, area, *([] if boxes is None else [boxes]), strict=True)
    images = [_match(_read(index, image, len(sigma), max_detections), sigma) for index, image in enumerate(given)]
    none = np.zeros((len(LIMITS), 0), bool)
    score, hit, ignored, wanted = zip((np.zeros(0), none, none, np.zeros(len(LIMITS))), *images, strict=True)
    order = np.argsort(-np.concatenate(score), kind="stable")
    ap, ar = _precision_and_recall(
        np.concatenate(hit, -1)[:, order], np.concatenate(ignored, -1)[:, order], np.sum(wanted, axis=0)
    )
    measures = {}
    for name, values in (("AP", ap), ("AR", ar)):
        table = values.reshape(len(AREAS), len(THRESHOLDS))
        measures[name], measures[f"{name}50"], measures[f"{name}75"] = table[0].mean(), table[0, 0], table[0, 5]
        measures[f"{name}M"], measures[f"{name}L"] = table[1:].mean(-1)
    return {name: float(value) for name, value in measures.items()}


def _read(index: int, given: tuple[Any, ...], points: int, limit: int) -> _Image:
    """Return one entry of each argument, checked, with the detections of the highest scores first."""
    predicted, scores, target, visible, area, *boxes = (
        # A copy: torch takes no array that is read-only or runs backwards.
        x.detach().cpu() if isinstance(x, Tensor) else torch.from_numpy(np.array(x, order="C"))
        for x in given
    )
    found, there = len(predicted), len(target)
    expected = [(found, points, 2), (found,), (there, points, 2), (there, points), (there,), (there, 4)]
    shapes = [tuple(x.shape) for x in (predicted, scores, target, visible, area, *boxes)]
    if shapes != expected[: len(shapes)] or visible.dtype != torch.bool:
        raise ValueError(
            f"image {index}: expected points (D, {points}, 2), scores (D,), points (G, {points}, 2), "
            f"bool (G, {points}), area (G,), boxes (G, 4) if given; got {shapes}, visible {visible.dtype}"
        )
    if not (area.isfinite() & (area >= 0)).all():
        raise ValueError(f"image {index}: expected finite areas of at least 0, got {area.tolist()}")
    if scores.isnan().any():
        raise ValueError(f"image {index}: expected scores without NaN, got {scores.tolist()}")
    first = scores.argsort(descending=True, stable=True)[:limit]
    box = boxes[0].double() if boxes else None
    return _Image(predicted[first].double(), scores[first].double(), target.double(), visible, area.double(), box)


def _match(image: _Image, sigma: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Match each detection, highest score first, to the most similar instance that is left.

    Returns: scores (D,), matched (S, D), ignored (S, D), number of instances to find (S,).
    """
    overlaps, instances, area = _overlaps(image, sigma), len(image.target), image.area.numpy()
    skipped = ~image.visible.any(-1).numpy() | (area < LOW) | (area > HIGH)  # (S, G)
    free, settings = np.ones_like(skipped), np.arange(len(LIMITS))
    hit, ignored = np.zeros((2, len(LIMITS), len(image.predicted)), bool)
    for d, overlap in enumerate(overlaps if instances else ()):
        near = free & (overlap >= LIMITS)
        counting = near & ~skipped
        # An instance that counts for nothing is taken only where there is no other; of equal ones the last is.
        allowed = np.where(counting.any(-1, keepdims=True), counting, near)
        best = instances - 1 - np.where(allowed, overlap, -1)[:, ::-1].argmax(-1)
        hit[:, d] = allowed.any(-1)
        ignored[:, d] = hit[:, d] & skipped[settings, best]
        free[settings, best] &= ~hit[:, d]
    own = _areas(image.predicted)
    ignored |= ~hit & ((own < LOW) | (own > HIGH))
    return image.scores.numpy(), hit, ignored, (~skipped).sum(-1)


def _overlaps(image: _Image, sigma: Tensor) -> np.ndarray:
    """Return the OKS (D, G) of every detection with every instance, NaN where that has no point and no box."""
    points, visible = image.predicted[:, None], image.visible
    delta = points - image.target
    if image.boxes is not None:
        # As in pycocotools: distances to the box, enlarged by its own size to each side.
        labelled = visible.any(-1, keepdim=True)
        low, high = image.boxes[:, None, :2], image.boxes[:, None, 2:]
        outside = (2 * low - high - points).clamp(min=0) + (points - 2 * high + low).clamp(min=0)
        delta = torch.where(labelled[..., None], delta, outside)
        visible = visible | ~labelled
    return _similarity(delta, visible, image.area, sigma).numpy()


def _areas(points: Tensor) -> np.ndarray:
    """Return the areas of the boxes around points (D, K, 2); NaN, which is in every range, where one is not finite."""
    known = torch.where(points.isfinite(), points, torch.nan)
    return (known.amax(1) - known.amin(1)).prod(-1).numpy()


def _precision_and_recall(hit: np.ndarray, ignored: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean precision at 101 recalls and the last recall, both (S,), of (S, D) detections, best score first."""
    right, wrong = (np.cumsum(x & ~ignored, axis=-1) for x in (hit, ~hit))
    # From a recall on, the best precision: it never rises with the recall.
    precision = np.maximum.accumulate((right / (right + wrong + np.spacing(1)))[:, ::-1], axis=-1)[:, ::-1]
    ap, ar = np.full((2, len(wanted)), np.nan)
    for s in np.flatnonzero(wanted):
        recall = right[s] / wanted[s]
        ap[s] = np.append(precision[s], 0)[np.searchsorted(recall, RECALLS)].mean()
        ar[s] = recall[-1] if len(recall) else 0
    return ap, ar
