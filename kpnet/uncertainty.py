"""What a covariance says: the ellipse that holds the truth, and the probability to be near it.

Errors are normal, or follow a Student t with `dof` degrees of freedom (above 2), whose covariance is the given one:
in two dimensions, both have a radial distribution in closed form.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kpnet.coordinates import normalized_distance_to_pixel

CONFIDENCE_RADIUS = 0.05  # of the image's longer side
ANGLES = 24


def ellipse_radius(probability: float, dof: float = math.inf) -> float:
    """Half the ellipse that holds the truth with `probability`, in standard deviations along its axes.

    {e: e' C^-1 e <= r^2} for the covariance C of the errors; sqrt(-2 log(1 - p)) for normal ones.
    """
    if math.isinf(dof):
        return math.sqrt(-2 * math.log1p(-probability))
    return math.sqrt((dof - 2) * math.expm1(-2 / dof * math.log1p(-probability)))


def probability_within_ellipse(squared: Tensor, dof: float = math.inf) -> Tensor:
    """Probability that e' C^-1 e is at most `squared`."""
    if math.isinf(dof):
        return -torch.expm1(-squared / 2)
    return -torch.expm1(-dof / 2 * torch.log1p(squared / (dof - 2)))


def probability_within(covariance: Tensor, radius: float, size: tuple[int, int], dof: float = math.inf) -> Tensor:
    """Probability (...) that an error of covariance (..., 2, 2), normalised, is shorter than `radius`.

    The radius is a fraction of the longer side of an image of `size` (H, W), or of its proportions. The radial
    distribution, averaged over the directions of the error.
    """
    covariance = covariance if covariance.dtype == torch.float64 else covariance.float()
    scale = normalized_distance_to_pixel(covariance.new_ones(2), size) / max(size)
    squares = covariance * scale[:, None] * scale
    mean = (squares[..., 0, 0] + squares[..., 1, 1]) / 2
    half = torch.hypot((squares[..., 0, 0] - squares[..., 1, 1]) / 2, squares[..., 0, 1])
    # A quarter turn is enough: the ellipse is symmetric. Its axes are sqrt(mean + half) and sqrt(mean - half) long.
    angles = (torch.arange(ANGLES, dtype=covariance.dtype, device=covariance.device) + 0.5) * (math.pi / 2 / ANGLES)
    along = mean[..., None] + half[..., None] * torch.cos(2 * angles)
    tiny = torch.finfo(covariance.dtype).tiny
    return probability_within_ellipse(radius**2 / along.clamp(min=tiny), dof).mean(-1)


def mahalanobis(errors: Tensor, covariance: Tensor) -> Tensor:
    """e' C^-1 e (...) of errors (..., 2) and covariances (..., 2, 2)."""
    xx, xy, yy = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    x, y = errors[..., 0], errors[..., 1]
    return (yy * x * x - 2 * xy * x * y + xx * y * y) / (xx * yy - xy * xy)


def combine_dof(dofs: list[float]) -> float:
    """Of a mixture of errors with these dofs: the mean of 1 / dof, which is 0 for normal ones."""
    inverse = sum(1 / dof for dof in dofs) / len(dofs)
    return 1 / inverse if inverse else math.inf


def mixture(points: Tensor, covariances: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean (..., 2) and covariance (..., 2, 2) of a mixture of M distributions: points (M, ..., 2), covariances
    (M, ..., 2, 2), weights (M, ...) that sum to 1 over M, or None for equal ones.

    The law of total variance: answers that disagree are less sure.
    """
    shares = torch.full_like(points[..., 0], 1 / len(points)) if weights is None else weights
    mean = (shares[..., None] * points).sum(0)
    apart = points - mean
    total = covariances + apart[..., :, None] * apart[..., None, :]
    return mean, (shares[..., None, None] * total).sum(0)
