"""Match the instances that a model found with the true ones, as COCO does (https://cocodataset.org/#keypoints-eval)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from kpnet.oks import oks, pairwise_oks

RIGHT = 0.5  # the least OKS of a detection that is right


class FoundInstances(Protocol):
    """The N instances found in one image, with K points each; `kpnet.inference.prediction.Prediction` is one.

    Attributes:
        keypoints: Points (N, K, 2) in pixels of the image.
        confidence: Confidence (N, K) of the points; None without one.
        scores: Scores (N,) in [0, 1]; None: all are 1.
    """

    @property
    def keypoints(self) -> np.ndarray: ...
    @property
    def confidence(self) -> np.ndarray | None: ...
    @property
    def scores(self) -> np.ndarray | None: ...


class TrueInstances(Protocol):
    """The G true instances of one image; `kpnet.data.wrappers.scenes.SceneTruth` is one. All in pixels of the image.

    Attributes:
        image: Name of the image.
        points: Points (G, K, 2); absent ones may be anything.
        visible: Bool (G, K). An instance without a visible point is neither right nor wrong.
        boxes: Boxes (G, 4) as x0, y0, x1, y1.
        areas: Areas (G,) in square pixels.
        ignored: Regions (I, 4) in which a detection is neither right nor wrong.
        partial: Whether the image is partly labelled: a detection that matches nothing is neither right nor wrong.
    """

    @property
    def image(self) -> str: ...
    @property
    def points(self) -> np.ndarray: ...
    @property
    def visible(self) -> np.ndarray: ...
    @property
    def boxes(self) -> np.ndarray: ...
    @property
    def areas(self) -> np.ndarray: ...
    @property
    def ignored(self) -> np.ndarray: ...
    @property
    def partial(self) -> bool: ...


@dataclass(frozen=True)
class Matches:
    """The D detections of all images, those of an image best first, and what each is matched to.

    Attributes:
        image: Number of the image (D,).
        row: Row of the detection (D,) among those of its image.
        score: Its score (D,).
        confidence: Mean confidence of its points (D,); NaN without one.
        target: Row (D,) of the true instance that it is matched to; -1: none.
        oks: OKS (D,) with the most similar true instance that no better detection has taken; 0 where there is none.
        counted: Whether it is right or wrong (D,); False: it is neither.
        instances: True instances (M, 2) that are to be found: image and row.
    """

    image: np.ndarray
    row: np.ndarray
    score: np.ndarray
    confidence: np.ndarray
    target: np.ndarray
    oks: np.ndarray
    counted: np.ndarray
    instances: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Which detections are right, bool (D,)."""
        return self.target >= 0

    def missed(self, threshold: float) -> np.ndarray:
        """Return the true instances (M', 2), image and row, that no detection of at least this score is matched to."""
        taken = self.right & (self.score >= threshold)
        found = set(zip(self.image[taken].tolist(), self.target[taken].tolist(), strict=True))
        return self.instances[[tuple(each) not in found for each in self.instances.tolist()]]


def match_instances(
    predictions: Iterable[FoundInstances], truth: Iterable[TrueInstances], sigmas: Sequence[float]
) -> Matches:
    """Match each detection, highest score first, to the most similar true instance that is left, by an OKS of 0.5.

    A worse detection never changes the match of a better one, so the matches hold for every threshold of the score.

    Args:
        predictions: What was found in each image.
        truth: What is in each image, in the same order.
        sigmas: Constants (K,) of the keypoints.

    Returns:
        The matches.

    Raises:
        ValueError: There are more images of one than of the other, or shapes do not fit.

    Example:
        ```python
        matches = match_instances(predictions, truth, sigmas_of(model.skeleton))
        precision = matches.right[matches.counted].mean()
        ```
    """
    parts: list[tuple[np.ndarray, ...]] = []
    instances = []
    for number, (found, there) in enumerate(zip(predictions, truth, strict=True)):
        parts.append(_match(found, there, sigmas))
        instances += [(number, row) for row in np.flatnonzero(there.visible.any(-1))]
    rows = [np.concatenate([np.zeros(0), *(part[i] for part in parts)]) for i in range(6)]
    row, score, confidence, target, similarity, counted = rows
    images = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
    return Matches(
        images.astype(int),
        row.astype(int),
        score,
        confidence,
        target.astype(int),
        similarity,
        counted.astype(bool),
        np.array(instances, int).reshape(-1, 2),
    )


def _match(found: FoundInstances, truth: TrueInstances, sigmas: Sequence[float]) -> tuple[np.ndarray, ...]:
    """Return rows, scores, mean confidences, targets, similarities and counted (N,), highest score first."""
    points = np.asarray(found.keypoints, float)
    scores = np.ones(len(points)) if found.scores is None else np.asarray(found.scores, float)
    confidence = np.full(len(points), np.nan) if found.confidence is None else found.confidence.mean(-1)
    order = np.argsort(-scores, kind="stable")
    points = points[order]
    real = np.flatnonzero(truth.visible.any(-1))
    overlaps = similarities(points, truth.points[real], truth.visible[real], truth.areas[real], sigmas)
    free, target, best = np.ones(len(real), bool), np.full(len(order), -1), np.zeros(len(order))
    for d, row in enumerate(overlaps):
        if not free.any():
            break
        nearest = int(np.where(free, row, -1).argmax())
        best[d] = row[nearest]
        if best[d] >= RIGHT:
            target[d], free[nearest] = real[nearest], False
    regions = np.concatenate([truth.ignored, truth.boxes[~truth.visible.any(-1)]]).reshape(-1, 4)
    excused = (region_similarities(points, regions, sigmas) >= RIGHT).any(-1) | truth.partial
    return order, scores[order], confidence[order], target, best, (target >= 0) | ~excused


def similarities(
    points: np.ndarray, target: np.ndarray, visible: np.ndarray, areas: np.ndarray, sigmas: Sequence[float]
) -> np.ndarray:
    """Return the OKS of every detection with every true instance.

    Args:
        points: Points (N, K, 2) of the detections.
        target: Points (G, K, 2) of the true instances.
        visible: Bool (G, K).
        areas: Areas (G,) of the true instances; one that is not finite matches nothing.
        sigmas: Constants (K,) of the keypoints.

    Returns:
        Similarities (N, G), 0 where there is none.
    """
    given = (np.asarray(points, float), np.asarray(target, float), visible, np.asarray(areas, float))
    predicted, xy, seen, area = (torch.from_numpy(np.ascontiguousarray(values)) for values in given)
    return pairwise_oks(predicted, xy, seen, area, sigmas).nan_to_num(0).numpy()


def region_similarities(points: np.ndarray, regions: np.ndarray, sigmas: Sequence[float]) -> np.ndarray:
    """Return how far detections belong to regions, as COCO does: the OKS of their distances to the enlarged boxes.

    Args:
        points: Points (N, K, 2) of the detections.
        regions: Boxes (I, 4) as x0, y0, x1, y1; each is enlarged by its own size to each side.
        sigmas: Constants (K,) of the keypoints.

    Returns:
        Similarities (N, I).
    """
    known = regions[np.isfinite(regions).all(-1)]
    low, high = known[None, :, None, :2], known[None, :, None, 2:]
    place = points[:, None]
    outside = np.clip(2 * low - high - place, 0, None) + np.clip(place - 2 * high + low, 0, None)
    count, areas = len(points) * len(known), np.tile((known[:, 2:] - known[:, :2]).prod(-1), len(points))
    delta = torch.from_numpy(outside.reshape(count, points.shape[1], 2))
    everything = torch.ones(delta.shape[:2], dtype=torch.bool)
    similar = oks(delta, torch.zeros_like(delta), everything, torch.from_numpy(areas), sigmas)
    return similar.nan_to_num(0).numpy().reshape(len(points), len(known))


def rank_scores(found: FoundInstances) -> np.ndarray:
    """Return what AP and AR rank the instances of an image by: how near their points are expected to be to the truth.

    Args:
        found: The instances.

    Returns:
        Float64 (N,): the expected OKS of calibrated scores, else the score times the mean confidence of the points
        (Xiao et al. 2018, Simple Baselines for Human Pose Estimation and Tracking), as far as there are any.
    """
    expected = getattr(found, "expected_oks", None)
    if expected is not None:
        return np.asarray(expected, float)
    scores = np.ones(len(found.keypoints)) if found.scores is None else np.asarray(found.scores, float)
    return scores if found.confidence is None else scores * np.asarray(found.confidence, float).mean(-1)
