"""Confidence ellipses and probabilities from a predicted covariance.

Errors are normal, or follow a Student t distribution with `dof` degrees of freedom (above 2) that has the given
covariance: in two dimensions, both have a radial distribution in closed form.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kpnet.coordinates import normalized_distance_to_pixel

CONFIDENCE_RADIUS = 0.05  # fraction of the image's longer side
ANGLES = 24


def ellipse_radius(probability: float, dof: float = math.inf) -> float:
    """Return the radius of the ellipse that holds the truth with a given probability.

    The ellipse is {e: e' C^-1 e <= r²} for the covariance C of the errors e.

    Args:
        probability: Probability in [0, 1).
        dof: Degrees of freedom of the Student t distribution; infinite for normal errors.

    Returns:
        Radius r in standard deviations along each axis; sqrt(-2 log(1 - probability)) for normal errors.
    """
    if math.isinf(dof):
        return math.sqrt(-2 * math.log1p(-probability))
    return math.sqrt((dof - 2) * math.expm1(-2 / dof * math.log1p(-probability)))


def probability_within_ellipse(squared: Tensor, dof: float = math.inf) -> Tensor:
    """Return the probability that e' C^-1 e, of errors e with covariance C, is at most `squared`.

    Args:
        squared: Squared radii of any shape, in squared standard deviations.
        dof: Degrees of freedom of the Student t distribution; infinite for normal errors.

    Returns:
        Probabilities of the same shape.
    """
    if math.isinf(dof):
        return -torch.expm1(-squared / 2)
    return -torch.expm1(-dof / 2 * torch.log1p(squared / (dof - 2)))


def probability_within(covariance: Tensor, radius: float, size: tuple[int, int], dof: float = math.inf) -> Tensor:
    """Return the probability that an error is shorter than a radius.

    The radial distribution is averaged over the directions of the error.

    Args:
        covariance: Covariances (..., 2, 2) of the errors, normalised.
        radius: Radius as a fraction of the image's longer side.
        size: Size (H, W) of the image, or its proportions.
        dof: Degrees of freedom of the Student t distribution; infinite for normal errors.

    Returns:
        Probabilities (...).
    """
    along = _variance_along(covariance, size)
    return probability_within_ellipse(radius**2 / along.clamp(min=torch.finfo(along.dtype).tiny), dof).mean(-1)


def expected_distance(covariance: Tensor, size: tuple[int, int], dof: float = math.inf) -> Tensor:
    """Return the expected length of an error.

    Args:
        covariance: Covariances (..., 2, 2) of the errors, normalised.
        size: Size (H, W) of the image, or its proportions.
        dof: Degrees of freedom of the Student t distribution; infinite for normal errors.

    Returns:
        Mean lengths (...), as fractions of the image's longer side.
    """
    # An error is a radius times a direction: the radius is Rayleigh distributed, or the root of 2 F(2, dof).
    radius = math.sqrt(math.pi / 2)
    if not math.isinf(dof):
        radius *= math.sqrt(dof / 2 - 1) * math.exp(math.lgamma((dof - 1) / 2) - math.lgamma(dof / 2))
    return radius * _variance_along(covariance, size).clamp(min=0).sqrt().mean(-1)


def _variance_along(covariance: Tensor, size: tuple[int, int]) -> Tensor:
    """Return v (..., ANGLES): errors are a radius times sqrt(v), for directions that are equally probable.

    Errors are fractions of the longer side of an image of `size`.
    """
    covariance = covariance if covariance.dtype == torch.float64 else covariance.float()
    scale = normalized_distance_to_pixel(covariance.new_ones(2), size) / max(size)
    squares = covariance * scale[:, None] * scale
    mean = (squares[..., 0, 0] + squares[..., 1, 1]) / 2
    # Not torch.hypot, which ONNX does not have.
    half = (((squares[..., 0, 0] - squares[..., 1, 1]) / 2).square() + squares[..., 0, 1].square()).sqrt()
    # A quarter turn is enough: the ellipse is symmetric. Its axes are sqrt(mean + half) and sqrt(mean - half) long.
    angles = (torch.arange(ANGLES, dtype=covariance.dtype, device=covariance.device) + 0.5) * (math.pi / 2 / ANGLES)
    return mean[..., None] + half[..., None] * torch.cos(2 * angles)


def mahalanobis(errors: Tensor, covariance: Tensor) -> Tensor:
    """Return the squared Mahalanobis distance e' C^-1 e.

    Args:
        errors: Errors e (..., 2).
        covariance: Covariances C (..., 2, 2), in the same unit.

    Returns:
        Squared distances (...).
    """
    xx, xy, yy = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    x, y = errors[..., 0], errors[..., 1]
    return (yy * x * x - 2 * xy * x * y + xx * y * y) / (xx * yy - xy * xy)


def combine_dof(dofs: list[float]) -> float:
    """Return the degrees of freedom of a mixture of errors.

    Args:
        dofs: Degrees of freedom of the parts; infinite for normal errors.

    Returns:
        Their harmonic mean; infinite if all errors are normal.
    """
    inverse = sum(1 / dof for dof in dofs) / len(dofs)
    return 1 / inverse if inverse else math.inf


def mixture(points: Tensor, covariances: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the mean and covariance of a mixture of M distributions, by the law of total variance.

    Distributions that disagree have a larger covariance together.

    Args:
        points: Means (M, ..., 2).
        covariances: Covariances (M, ..., 2, 2).
        weights: Weights (M, ...) that sum to 1 over M; None for equal ones.

    Returns:
        Mean (..., 2) and covariance (..., 2, 2).
    """
    shares = torch.full_like(points[..., 0], 1 / len(points)) if weights is None else weights
    mean = (shares[..., None] * points).sum(0)
    apart = points - mean
    total = covariances + apart[..., :, None] * apart[..., None, :]
    return mean, (shares[..., None, None] * total).sum(0)
