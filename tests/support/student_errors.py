"""Predictions and errors drawn from known distributions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kpnet.heads import Keypoints


def sample(covariance: Tensor, dof: float, count: int = 200_000) -> Tensor:
    """Errors (count, 2): a normal, or a Student t of that covariance."""
    g = torch.Generator().manual_seed(0)
    normal = torch.randn(count, 2, generator=g, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    if math.isinf(dof):
        return normal
    chi = torch.distributions.Chi2(torch.tensor(dof, dtype=torch.float64))
    torch.manual_seed(0)
    return normal * ((dof - 2) / dof) ** 0.5 / (chi.sample((count, 1)) / dof).sqrt()


def answers(count: int, points: int = 4, seed: int = 0) -> tuple[Keypoints, Tensor]:
    """Predictions with covariances of many sizes and shapes, and those covariances."""
    g = torch.Generator().manual_seed(seed)
    roots = 0.02 * torch.randn(count, points, 2, 2, generator=g, dtype=torch.float64)
    covariance = roots @ roots.mT + 1e-5 * torch.eye(2, dtype=torch.float64)
    return Keypoints(torch.zeros(count, points, 2, dtype=torch.float64), covariance=covariance), covariance


def errors_of(covariance: Tensor, factors: Tensor, exponent: float, dof: float) -> Tensor:
    size = covariance.det().pow(0.25)
    root = torch.linalg.cholesky(covariance) * (factors * size ** (exponent - 1))[..., None, None]
    unit = sample(torch.eye(2, dtype=torch.float64), dof, covariance[..., 0, 0].numel())
    return (root @ unit.view(*covariance.shape[:-1], 1))[..., 0]
