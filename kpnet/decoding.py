"""Maps to coordinates, as pure batched functions.

Logits are (B, K, h, w); the map covers the image, so cells and pixels share normalised coordinates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kpnet.coordinates import cell_centers


def spatial_softmax2d(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Probabilities (B, K, h, w) that sum to 1 over each map; at least float32, also under autocast."""
    _check_maps(logits)
    return (_at_least_float32(logits).flatten(2) / temperature).softmax(-1).view(logits.shape)


def expected_xy2d(probabilities: Tensor) -> Tensor:
    """Means (B, K, 2), normalised, of maps (B, K, h, w) that sum to 1."""
    probabilities = _at_least_float32(probabilities)
    x, y = _axes(probabilities)
    with torch.autocast(probabilities.device.type, enabled=False):
        return torch.stack([probabilities.sum(-2) @ x, probabilities.sum(-1) @ y], -1)


def soft_argmax2d(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Soft-argmax (B, K, 2) in [-1, 1] of logits (B, K, h, w): the mean of their spatial softmax.

    Integral pose regression, Sun et al. 2018. A flat map gives the image's centre.
    """
    return expected_xy2d(spatial_softmax2d(logits, temperature))


def covariance2d(probabilities: Tensor, xy: Tensor) -> Tensor:
    """Second moments (B, K, 2, 2), normalised, of maps (B, K, h, w) about points (B, K, 2)."""
    probabilities = _at_least_float32(probabilities)
    x, y = _axes(probabilities)
    dx, dy = x - xy[..., :1], y - xy[..., 1:]  # (B, K, w), (B, K, h)
    xx = (probabilities.sum(-2) * dx * dx).sum(-1)
    yy = (probabilities.sum(-1) * dy * dy).sum(-1)
    row = (probabilities * dx[..., None, :]).sum(-1)  # (B, K, h)
    cross = (row * dy).sum(-1)
    return torch.stack([xx, cross, cross, yy], -1).unflatten(-1, (2, 2))


def mass_within2d(probabilities: Tensor, xy: Tensor, radius: float) -> Tensor:
    """Probability (B, K) within `radius` of points (B, K, 2); the radius is a fraction of the image's side.

    A cell counts by the share of its area, to first order: fully where its centre is half a cell
    inside the circle, not at all where it is half a cell outside.
    """
    probabilities = _at_least_float32(probabilities)
    height, width = probabilities.shape[-2:]
    side = max(height, width)  # distances in cells
    x, y = _axes(probabilities)
    dx, dy = (x - xy[..., :1]) * (width / 2), (y - xy[..., 1:]) * (height / 2)
    squared = dx[..., None, :] ** 2 + dy[..., :, None] ** 2
    distance = squared.clamp(min=1e-12).sqrt()  # the gradient of sqrt(0) is NaN
    return (probabilities * (radius * side - distance + 0.5).clamp(0, 1)).sum((-2, -1)).clamp(0, 1)


def _at_least_float32(maps: Tensor) -> Tensor:
    return maps if maps.dtype == torch.float64 else maps.float()


def _axes(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Centres of the columns (w,) and of the rows (h,), normalised."""
    height, width = maps.shape[-2:]
    return (
        cell_centers(width, device=maps.device, dtype=maps.dtype),
        cell_centers(height, device=maps.device, dtype=maps.dtype),
    )


def _check_maps(logits: Tensor) -> None:
    if logits.ndim != 4:
        raise ValueError(f"expected maps (B, K, h, w), got {tuple(logits.shape)}")
