"""Reliability: predicted uncertainty against actual errors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kpnet.coordinates import Size, normalized_distance_to_pixel
from kpnet.heads import Keypoints
from kpnet.uncertainty import CONFIDENCE_RADIUS, ellipse_radius, mahalanobis, probability_within

LEVELS = (0.5, 0.9, 0.95)
STRICT_RADIUS = 0.01  # of the longer side: more telling where nearly all points lie within 5 %
BINS = 10
RESAMPLES = 1000


def measure_reliability(predicted: Keypoints, target: Tensor, visible: Tensor, size: Size) -> dict[str, Any]:
    """Compare the uncertainty of predictions with their errors.

    The confidence is the probability that a point lies within 5 % of the image's longer side; its expected calibration
    error is that of Naeini et al. 2015 (Obtaining well calibrated probabilities using Bayesian binning).

    Args:
        predicted: Predictions for N images, with a covariance.
        target: True points (N, K, 2), normalised to [-1, 1].
        visible: Which points are labelled, bool (N, K).
        size: Input size of the model (H, W).

    Returns:
        A dict of:

        - `ece`: Expected calibration error of the confidence, over 10 bins of equal width; `ece@1%` for a radius of 1 %
          of the longer side. `ece` is absent without a confidence.
        - `coverage`: Fraction of the points (`measured`) inside the ellipses that should hold 50, 90 and 95 % of them,
          with its 95 % interval over resampled images (`low`, `high`).
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
    assert predicted.covariance is not None
    errors = (predicted.keypoints - target).double().cpu()
    covariance, visible = predicted.covariance.double().cpu(), visible.cpu()
    distance = normalized_distance_to_pixel(errors, size).norm(dim=-1)[visible]
    confidences = {
        "5%": predicted.confidence.double().cpu()[visible] if predicted.confidence is not None else None,
        "1%": probability_within(covariance, STRICT_RADIUS, size, predicted.dof)[visible],
    }
    radii = {"5%": CONFIDENCE_RADIUS, "1%": STRICT_RADIUS}
    diagrams = {
        name: reliability_diagram(confidence, (distance <= radii[name] * max(size)).double())
        for name, confidence in confidences.items()
        if confidence is not None
    }
    squared = mahalanobis(errors, covariance)
    scale = normalized_distance_to_pixel(torch.ones(2, dtype=torch.float64), size).square()
    rms = (covariance.diagonal(dim1=-2, dim2=-1) * scale).sum(-1).sqrt()[visible]
    return {
        **{"ece" if name == "5%" else f"ece@{name}": calibration_error(diagram) for name, diagram in diagrams.items()},
        "coverage": {f"{round(100 * p)}%": _coverage(squared, visible, p, predicted.dof) for p in LEVELS},
        "diagram": diagrams,
        "deciles": _deciles(rms, distance),
    }


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


def _coverage(squared: Tensor, visible: Tensor, probability: float, dof: float) -> dict[str, float]:
    """Return the fraction inside; whole images are resampled for its interval, as errors in one image correlate."""
    inside = ((squared <= ellipse_radius(probability, dof) ** 2) & visible).sum(-1).double()
    counted = visible.sum(-1).double()
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.randint(len(inside), (len(inside),), generator=generator) for _ in range(RESAMPLES))
    shares = torch.stack([inside[index].sum() / counted[index].sum() for index in drawn])
    low, high = shares.nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return {"measured": float(inside.sum() / counted.sum()), "low": low, "high": high}


def _deciles(rms: Tensor, distance: Tensor) -> list[dict[str, float]]:
    order = rms.argsort()
    return [
        {"predicted_px": float(rms[part].square().mean().sqrt()), "px": float(distance[part].square().mean().sqrt())}
        for part in order.tensor_split(BINS)
        if len(part)
    ]
