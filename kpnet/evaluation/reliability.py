"""Is the confidence true? What a model says of its errors, against the errors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kpnet.coordinates import Size, normalized_distance_to_pixel
from kpnet.heads import Keypoints
from kpnet.uncertainty import CONFIDENCE_RADIUS, ellipse_radius, mahalanobis, probability_within

LEVELS = (0.5, 0.9, 0.95)
STRICT_RADIUS = 0.01  # of the longer side: where nearly all points lie within 5 %, this tells more
BINS = 10
RESAMPLES = 1000


def measure_reliability(answer: Keypoints, target: Tensor, visible: Tensor, size: Size) -> dict[str, Any]:
    """Of answers with a covariance to N images: true points (N, K, 2) normalised, visible (N, K), input size (H, W).

    ece: expected calibration error of the confidence (the point lies within 5 % of the longer side), over 10 equal
    bins, and ece@1% for that radius. coverage: the share of points in the ellipses that should hold 50, 90 and 95 %,
    with the 95 % interval over resampled images. diagram: per bin the mean confidence, the share that is right and
    the number, for both radii. deciles: from the surest tenth of the points on, their predicted and actual RMS error
    (radial, in pixels of the input).
    """
    assert answer.covariance is not None
    errors = (answer.keypoints - target).double().cpu()
    covariance, visible = answer.covariance.double().cpu(), visible.cpu()
    distance = normalized_distance_to_pixel(errors, size).norm(dim=-1)[visible]
    confidences = {
        "5%": answer.confidence.double().cpu()[visible] if answer.confidence is not None else None,
        "1%": probability_within(covariance, STRICT_RADIUS, size, answer.dof)[visible],
    }
    radii = {"5%": CONFIDENCE_RADIUS, "1%": STRICT_RADIUS}
    diagrams = {
        name: _diagram(confidence, (distance <= radii[name] * max(size)).double())
        for name, confidence in confidences.items()
        if confidence is not None
    }
    squared = mahalanobis(errors, covariance)
    scale = normalized_distance_to_pixel(torch.ones(2, dtype=torch.float64), size).square()
    spread = (covariance.diagonal(dim1=-2, dim2=-1) * scale).sum(-1).sqrt()[visible]
    return {
        **{"ece" if name == "5%" else f"ece@{name}": _ece(diagram) for name, diagram in diagrams.items()},
        "coverage": {f"{round(100 * p)}%": _coverage(squared, visible, p, answer.dof) for p in LEVELS},
        "diagram": diagrams,
        "deciles": _deciles(spread, distance),
    }


def _diagram(confidence: Tensor, right: Tensor) -> list[dict[str, float]]:
    """Bins of equal width that hold any point."""
    index = (confidence * BINS).long().clamp(0, BINS - 1)
    bins = [index == b for b in range(BINS)]
    return [
        {"confidence": float(confidence[b].mean()), "right": float(right[b].mean()), "points": int(b.sum())}
        for b in bins
        if b.any()
    ]


def _ece(diagram: list[dict[str, float]]) -> float:
    total = sum(row["points"] for row in diagram)
    return sum(row["points"] * abs(row["confidence"] - row["right"]) for row in diagram) / total


def _coverage(squared: Tensor, visible: Tensor, probability: float, dof: float) -> dict[str, float]:
    """The share inside, and its 95 % interval by resampling whole images: points of one face err together."""
    inside = ((squared <= ellipse_radius(probability, dof) ** 2) & visible).sum(-1).double()
    counted = visible.sum(-1).double()
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.randint(len(inside), (len(inside),), generator=generator) for _ in range(RESAMPLES))
    shares = torch.stack([inside[index].sum() / counted[index].sum() for index in drawn])
    low, high = shares.nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return {"measured": float(inside.sum() / counted.sum()), "low": low, "high": high}


def _deciles(spread: Tensor, distance: Tensor) -> list[dict[str, float]]:
    order = spread.argsort()
    return [
        {"predicted_px": float(spread[part].square().mean().sqrt()), "px": float(distance[part].square().mean().sqrt())}
        for part in order.tensor_split(BINS)
        if len(part)
    ]
