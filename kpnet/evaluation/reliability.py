"""Reliability: predicted uncertainty against actual errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kpnet.coordinates import Size, normalized_distance_to_pixel
from kpnet.evaluation.intervals import share_interval
from kpnet.heads import Keypoints
from kpnet.models.calibration import fit_calibration, fit_presence
from kpnet.models.presence import presence_logits
from kpnet.uncertainty import CONFIDENCE_RADIUS, ellipse_radius, mahalanobis, probability_within

LEVELS = (0.5, 0.9, 0.95)
STRICT_RADIUS = 0.01  # of the longer side: more telling where nearly all points lie within 5 %
BINS = 10


def measure_reliability(
    predicted: Keypoints,
    target: Tensor,
    visible: Tensor,
    size: Size,
    present: Tensor | None = None,
    images: np.ndarray | None = None,
) -> dict[str, Any]:
    """Compare the uncertainty of predictions with their errors.

    The confidence is the probability that a point lies within 5 % of the image's longer side; its expected calibration
    error is that of Naeini et al. 2015 (Obtaining well calibrated probabilities using Bayesian binning).

    Args:
        predicted: Predictions for N images, with a covariance.
        target: True points (N, K, 2), normalised to [-1, 1].
        visible: Which points are labelled, bool (N, K).
        size: Input size of the model (H, W).
        present: For a model that predicts presence, 1 where a point is there, 0 where it is not, NaN where that is not
            known (N, K). Points that are not there are wrong wherever they are predicted, labelled or not, and the
            confidence is compared with that. None: the labelled points are there.
        images: Number of the image that each prediction is of (N,). None: each is of an image of its own.

    Returns:
        A dict of:

        - `ece`: Expected calibration error of the confidence, over 10 bins of equal width; `ece@1%` for a radius of 1 %
          of the longer side. `ece` is absent without a confidence.
        - `coverage`: Fraction of the points (`measured`) inside the ellipses that should hold 50, 90 and 95 % of them,
          with its 95 % interval over resampled images (`low`, `high`; see `kpnet.evaluation.intervals.share_interval`)
          and their number (`points`).
        - `diagram`: For each radius the bins that hold a point: mean `confidence`, fraction of `right` points, number
          of `points`.
        - `deciles`: Predicted and actual RMS radial error (`predicted_px`, `px`, in pixels of the input) of each tenth
          of the points, from the most confident to the least.

    Example:
        ```python
        out = model.infer(images)
        measure_reliability(out, target, visible, (96, 96))["ece"]
        ```
    """
    return _summary([_judge(predicted, target, visible, size, present)], images)


def measure_cross_fitted(
    predicted: Keypoints,
    target: Tensor,
    visible: Tensor,
    size: Size,
    first: np.ndarray,
    present: Tensor | None = None,
    images: np.ndarray | None = None,
) -> dict[str, Any]:
    """Measure the reliability of a calibration that is fitted to the same data: each half by the fit to the other.

    Args:
        predicted: Uncalibrated predictions for N images, or for these and then for a copy of each that presence is
            calibrated on and that is not measured.
        target: True points (N, K, 2), normalised to [-1, 1], and those of the copies.
        visible: Which points are labelled, bool (N, K), and those of the copies.
        size: Input size of the model (H, W).
        first: Which predictions are of the first half, bool (N,); those of one image are in one half.
        present: Which points are there, as `fit_calibration` takes it; None: not known.
        images: Number of the image that each of the N predictions is of (N,). None: each is of an image of its own.

    Returns:
        The measures of `measure_reliability`, of both halves pooled, and `cross_fitted`, which is true.

    Raises:
        KpnetError: A half has too few labelled points for a calibration, or is hit exactly.
    """
    judged = []
    for half in (first, ~first):
        here = torch.from_numpy(np.flatnonzero(half))
        there = torch.from_numpy(np.resize(~half, len(target)))  # the copies' rows are those of their images
        own = None if present is None else present[there]
        calibration = fit_calibration(_take(predicted, there), target[there], visible[there], size, present=own)
        seen = None if present is None else present[here]
        judged.append(_judge(calibration(_take(predicted, here), size), target[here], visible[here], size, seen))
    order = np.concatenate([np.flatnonzero(first), np.flatnonzero(~first)])
    return {**_summary(judged, None if images is None else images[order]), "cross_fitted": True}


def _take(predicted: Keypoints, chosen: Tensor) -> Keypoints:
    return predicted.map(lambda rows: rows[chosen])


class _Judged(NamedTuple):
    """What predictions said of P labelled points, and what came."""

    inside: Tensor  # bool (N, K, levels): which points are inside the ellipse of each level
    counted: Tensor  # bool (N, K): which are labelled
    distance: Tensor  # (P,), in pixels of the input
    rms: Tensor  # (P,), as predicted
    confidence: dict[str, Tensor]  # for each radius, of these points and of those that are known not to be there
    right: dict[str, Tensor]  # the same


def _judge(predicted: Keypoints, target: Tensor, visible: Tensor, size: Size, present: Tensor | None = None) -> _Judged:
    assert predicted.covariance is not None
    errors = (predicted.keypoints - target).double().cpu()
    covariance, visible = predicted.covariance.double().cpu(), visible.cpu()
    distance = normalized_distance_to_pixel(errors, size).norm(dim=-1)
    strict = probability_within(covariance, STRICT_RADIUS, size, predicted.dof)
    counted, there = visible, torch.ones_like(visible)
    if predicted.presence is not None and present is not None:
        counted, there = visible | (present == 0).cpu(), (present != 0).cpu()
        strict = strict * predicted.presence.double().cpu()
    radii, confidence = {"1%": STRICT_RADIUS}, {"1%": strict[counted]}
    if predicted.confidence is not None:
        radii = {"5%": CONFIDENCE_RADIUS, **radii}
        confidence["5%"] = predicted.confidence.double().cpu()[counted]
    right = {name: there & (distance <= radius * max(size)) for name, radius in radii.items()}
    squared = mahalanobis(errors, covariance)
    inside = [squared <= ellipse_radius(p, predicted.dof) ** 2 for p in LEVELS]
    scale = normalized_distance_to_pixel(torch.ones(2, dtype=torch.float64), size).square()
    return _Judged(
        torch.stack(inside, -1),
        visible,
        distance[visible],
        (covariance.diagonal(dim1=-2, dim2=-1) * scale).sum(-1).sqrt()[visible],
        {name: confidence[name] for name in radii},
        {name: each[counted].double() for name, each in right.items()},
    )


def _summary(judged: Sequence[_Judged], images: np.ndarray | None) -> dict[str, Any]:
    inside, counted, distance, rms = (
        torch.cat([getattr(each, name) for each in judged]) for name in ("inside", "counted", "distance", "rms")
    )
    diagrams = {
        name: reliability_diagram(*(torch.cat([pair[name] for pair in pairs]) for pairs in _columns(judged)))
        for name in judged[0].confidence
    }
    shares = (share_interval(inside[..., i], counted, images) for i in range(len(LEVELS)))
    return {
        **{"ece" if name == "5%" else f"ece@{name}": calibration_error(diagram) for name, diagram in diagrams.items()},
        "coverage": {f"{round(100 * p)}%": share for p, share in zip(LEVELS, shares, strict=True)},
        "diagram": diagrams,
        "deciles": _deciles(rms, distance),
    }


def _columns(judged: Sequence[_Judged]) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    return [each.confidence for each in judged], [each.right for each in judged]


def measure_presence(presence: Tensor, present: Tensor) -> dict[str, float] | None:
    """Compare predicted presence with what is known of it.

    Args:
        presence: Predicted presence (N, K), in [0, 1].
        present: 1 where a point is there, 0 where it is not, NaN where that is not known (N, K).

    Returns:
        `auc`, the probability that a point that is there has a higher presence than one that is not; `ece`, the
        expected calibration error; `there` and `absent`, the numbers of points. None where one of the kinds is missing.
    """
    present, known = present.cpu().double(), present.isfinite().cpu()
    presence, truth = presence.cpu().double()[known], present[known]
    there, absent = presence[truth > 0], presence[truth == 0].sort().values
    if not len(there) or not len(absent):
        return None
    below, up_to = (torch.searchsorted(absent, there, right=right) for right in (False, True))
    return {
        "auc": float((below + up_to).double().mean() / (2 * len(absent))),  # a tie counts for a half
        "ece": calibration_error(reliability_diagram(presence, truth)),
        "there": len(there),
        "absent": len(absent),
    }


def cross_fit_presence(presence: Tensor, present: Tensor, first: np.ndarray) -> Tensor:
    """Calibrate the presence of each half of the images by the fit to the other half.

    Args:
        presence: Uncalibrated presence of N images, or of these and then of a copy of each (N or 2 N, K).
        present: 1 where a point is there, 0 where it is not, NaN where that is not known, of the same shape.
        first: Which images are of the first half, bool (N,).

    Returns:
        Calibrated presence, float64 of the same shape; where the other half has too few points of a kind, as it was.
    """
    calibrated = presence.cpu().double().clone()
    for half in (first, ~first):
        here, there = (torch.from_numpy(np.resize(each, len(calibrated))) for each in (half, ~half))
        scale, shift = fit_presence(presence.cpu()[there], present.cpu()[there]) or (1.0, 0.0)
        calibrated[here] = (scale * presence_logits(calibrated[here]) + shift).sigmoid()
    return calibrated


def reliability_diagram(confidence: Tensor, right: Tensor) -> list[dict[str, float]]:
    """Return the bins of equal width that hold any point.

    Args:
        confidence: Confidences (N,) in [0, 1].
        right: What they are expected to be on average (N,), such as 1 for a right point and 0 for a wrong one.

    Returns:
        The mean `confidence` of each bin, the mean of `right` and the number of `points`.
    """
    index = (confidence * BINS).long().clamp(0, BINS - 1)
    bins = [index == b for b in range(BINS)]
    return [
        {"confidence": float(confidence[b].mean()), "right": float(right[b].mean()), "points": int(b.sum())}
        for b in bins
        if b.any()
    ]


def calibration_error(diagram: list[dict[str, float]]) -> float:
    """Return the mean distance between `confidence` and `right` of a diagram's bins, weighted by their points."""
    total = sum(row["points"] for row in diagram)
    return sum(row["points"] * abs(row["confidence"] - row["right"]) for row in diagram) / total


def _deciles(rms: Tensor, distance: Tensor) -> list[dict[str, float]]:
    order = rms.argsort()
    return [
        {"predicted_px": float(rms[part].square().mean().sqrt()), "px": float(distance[part].square().mean().sqrt())}
        for part in order.tensor_split(BINS)
        if len(part)
    ]
