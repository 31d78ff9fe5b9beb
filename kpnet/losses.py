"""Losses over visible points, as pure functions.

Points are (B, K, 2), logits (B, K, h, w), `weight` is float (B, K), 0 for an absent point, whose
coordinates may be anything, NaN included. Each function gives a scalar: the sum of weight times
error over the number of points of weight > 0, and 0 (with zero gradients) where there is none.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kpnet.coordinates import normalized_to_pixel


def mean_over_visible(values: Tensor, weight: Tensor) -> Tensor:
    """Sum of `weight * values` (B, K) over the number of points of weight > 0; NaN under weight 0 is not touched."""
    visible = weight > 0
    total = torch.where(visible, values * weight, 0).sum()
    return total / visible.sum().clamp(min=1)


def _select(predicted: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Both (B, K, 2), zero where absent: selected before the arithmetic, as NaN * 0 is NaN."""
    if predicted.shape != target.shape or predicted.shape[:-1] != weight.shape:
        raise ValueError(
            f"expected points (B, K, 2) twice and weight (B, K), got {tuple(predicted.shape)}, "
            f"{tuple(target.shape)} and {tuple(weight.shape)}"
        )
    visible = (weight > 0)[..., None]
    return torch.where(visible, predicted, 0), torch.where(visible, target, 0)


def l1(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean absolute error per coordinate."""
    predicted, target = _select(predicted, target, weight)
    return mean_over_visible((predicted - target).abs().mean(-1), weight)


def mse(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean squared error per coordinate: the course's criterion."""
    predicted, target = _select(predicted, target, weight)
    return mean_over_visible((predicted - target).square().mean(-1), weight)


def smooth_l1(predicted: Tensor, target: Tensor, weight: Tensor, beta: float = 0.02) -> Tensor:
    """Huber-like, quadratic below `beta` (normalised; 0.02 is a pixel of a 96 px image). Girshick 2015."""
    predicted, target = _select(predicted, target, weight)
    return mean_over_visible(F.smooth_l1_loss(predicted, target, reduction="none", beta=beta).mean(-1), weight)


def log_gaussian_profiles(target: Tensor, size: tuple[int, int], sigma: float) -> tuple[Tensor, Tensor]:
    """Logs of the two factors (B, K, h) and (B, K, w) of Gaussian maps about points (B, K, 2).

    `sigma` is in cells; the centre is the point itself, never rounded to a cell; the peak is log 1 = 0.
    """
    cells = normalized_to_pixel(target, size)
    y = torch.arange(size[0], device=target.device, dtype=target.dtype) - cells[..., 1:]
    x = torch.arange(size[1], device=target.device, dtype=target.dtype) - cells[..., :1]
    return -0.5 * (y / sigma) ** 2, -0.5 * (x / sigma) ** 2


def cross_entropy2d(logits: Tensor, target: Tensor, weight: Tensor, sigma: float) -> Tensor:
    """Spatial cross-entropy of softmax(logits) against a Gaussian (`sigma` in cells) that sums to 1 on the map.

    The slides' "keypoints as heatmaps, loss: softmax". The Gaussian is separable and never rendered:
    H = logsumexp(z) - sum_ij gy_i z_ij gx_j.
    """
    size = (logits.shape[-2], logits.shape[-1])
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.double() if logits.dtype == torch.float64 else logits.float()
        target = torch.where((weight > 0)[..., None], target, 0).to(logits.dtype)
        # As a softmax: an exponential far from the border would underflow to 0 / 0.
        gy, gx = (log.softmax(-1) for log in log_gaussian_profiles(target, size, sigma))
        expected = ((logits @ gx[..., None])[..., 0] * gy).sum(-1)
        return mean_over_visible(logits.flatten(2).logsumexp(-1) - expected, weight)


def map_mse(maps: Tensor, target: Tensor, weight: Tensor, sigma: float) -> Tensor:
    """Mean squared error per cell of maps (B, K, h, w) to Gaussians of peak 1 (`sigma` in cells)."""
    target = torch.where((weight > 0)[..., None], target, 0)
    gy, gx = (log.exp() for log in log_gaussian_profiles(target, (maps.shape[-2], maps.shape[-1]), sigma))
    return mean_over_visible((maps - gy[..., :, None] * gx[..., None, :]).square().mean((-2, -1)), weight)


COORDINATE_LOSSES = {"l1": l1, "smooth_l1": smooth_l1, "mse": mse}
MAP_LOSSES = {"cross_entropy": cross_entropy2d, "map_mse": map_mse}
