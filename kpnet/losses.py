"""Losses over visible points, as pure functions.

Points are (B, K, 2), logits and maps (B, K, h, w), `weight` is float (B, K), 0 for an absent point, whose
target may be anything, NaN included. Each function gives a scalar through `reduce`, which turns errors
(B, K) into it: `mean_over_visible`, or `ohkm(count)`. Where nothing is visible the loss and all gradients are 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kpnet.rendering import log_gaussian_profiles, render_gaussian2d

Reduce = Callable[[Tensor, Tensor], Tensor]


def mean_over_visible(values: Tensor, weight: Tensor) -> Tensor:
    """Sum of `weight * values` (B, K) over the number of points of weight > 0; NaN under weight 0 is not touched."""
    visible = weight > 0
    total = torch.where(visible, values * weight, 0).sum()
    return total / visible.sum().clamp(min=1)


def ohkm(count: int) -> Reduce:
    """Online hard keypoint mining (Chen et al. 2018): the mean over each image's `count` largest errors."""

    def reduce(values: Tensor, weight: Tensor) -> Tensor:
        weighted = torch.where(weight > 0, values.detach() * weight, -torch.inf)
        hardest = weighted.topk(min(count, weight.shape[-1]), -1).indices
        return mean_over_visible(values.gather(-1, hardest), weight.gather(-1, hardest))

    return reduce


def check_shapes(predicted: Tensor, target: Tensor, weight: Tensor) -> None:
    """A ValueError where predictions (B, K, ...), targets (B, K, 2) and weight (B, K) are not of the same B and K."""
    if not predicted.shape[:2] == target.shape[:2] == weight.shape or target.shape[2:] != (2,):
        raise ValueError(
            "expected predictions (B, K, ...), points (B, K, 2) and weight (B, K), got "
            f"{tuple(predicted.shape)}, {tuple(target.shape)} and {tuple(weight.shape)}"
        )


def _select(predicted: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Both (B, K, 2), zero where absent: selected before the arithmetic, as NaN * 0 is NaN."""
    check_shapes(predicted, target, weight)
    visible = (weight > 0)[..., None]
    return torch.where(visible, predicted, 0), torch.where(visible, target, 0)


# Of coordinates


def l1(predicted: Tensor, target: Tensor, weight: Tensor, reduce: Reduce = mean_over_visible) -> Tensor:
    """Mean absolute error per coordinate."""
    predicted, target = _select(predicted, target, weight)
    return reduce((predicted - target).abs().mean(-1), weight)


def mse(predicted: Tensor, target: Tensor, weight: Tensor, reduce: Reduce = mean_over_visible) -> Tensor:
    """Mean squared error per coordinate: the course's criterion."""
    predicted, target = _select(predicted, target, weight)
    return reduce((predicted - target).square().mean(-1), weight)


def smooth_l1(
    predicted: Tensor, target: Tensor, weight: Tensor, reduce: Reduce = mean_over_visible, beta: float = 0.02
) -> Tensor:
    """Huber-like, quadratic below `beta` (normalised; 0.02 is a pixel of a 96 px image). Girshick 2015."""
    predicted, target = _select(predicted, target, weight)
    return reduce(F.smooth_l1_loss(predicted, target, reduction="none", beta=beta).mean(-1), weight)


def wing(
    predicted: Tensor,
    target: Tensor,
    weight: Tensor,
    reduce: Reduce = mean_over_visible,
    width: float = 0.08,
    curvature: float = 0.016,
) -> Tensor:
    """Logarithmic below `width`, L1 above (Feng et al. 2018): small errors pull as well as large ones.

    Normalised units: the paper's 10 and 2 pixels of 256. Scaled to agree with L1's slope far out.
    """
    predicted, target = _select(predicted, target, weight)
    error = (predicted - target).abs()
    offset = width - width * math.log1p(width / curvature)
    values = torch.where(error < width, width * torch.log1p(error / curvature), error - offset)
    return reduce(values.mean(-1), weight)


def gaussian_nll(
    predicted: Tensor, log_scale: Tensor, target: Tensor, weight: Tensor, reduce: Reduce = mean_over_visible
) -> Tensor:
    """Mean negative log-likelihood per coordinate under normal errors of log sigma log_scale (B, K, 2)."""
    predicted, target = _select(predicted, target, weight)
    scaled = (target - predicted) * torch.exp(-log_scale)
    return reduce((0.5 * scaled.square() + log_scale + 0.5 * math.log(2 * math.pi)).mean(-1), weight)


def laplace_nll(
    predicted: Tensor, log_scale: Tensor, target: Tensor, weight: Tensor, reduce: Reduce = mean_over_visible
) -> Tensor:
    """As `gaussian_nll` under Laplace errors of mean size exp(log_scale)."""
    predicted, target = _select(predicted, target, weight)
    scaled = (target - predicted) * torch.exp(-log_scale)
    return reduce((scaled.abs() + log_scale + math.log(2)).mean(-1), weight)


# Of maps, against a Gaussian about the target; `sigma` is in cells


def _float_logits(logits: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Both at least float32; absent targets 0."""
    check_shapes(logits, target, weight)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits, torch.where((weight > 0)[..., None], target, 0).to(logits.dtype)


def _log_profiles(target: Tensor, maps: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Logs of the factors (B, K, h), (B, K, w) of a Gaussian that sums to 1 on the map.

    By log_softmax: an exponential far from the border would underflow to 0 / 0.
    """
    gy, gx = log_gaussian_profiles(target, (maps.shape[-2], maps.shape[-1]), sigma)
    return gy.log_softmax(-1), gx.log_softmax(-1)


def axis_cross_entropy(logits: Tensor, log_target: Tensor) -> Tensor:
    """Cross-entropy (B, K) of softmax(logits) against exp(log_target), each (B, K, n)."""
    return -(log_target.exp() * logits.log_softmax(-1)).sum(-1)


def axis_kl(logits: Tensor, log_target: Tensor) -> Tensor:
    """Kullback-Leibler divergence (B, K) of softmax(logits) from exp(log_target), each (B, K, n)."""
    return (log_target.exp() * (log_target - logits.log_softmax(-1))).sum(-1)


def cross_entropy2d(
    logits: Tensor, target: Tensor, weight: Tensor, sigma: float, reduce: Reduce = mean_over_visible
) -> Tensor:
    """Spatial cross-entropy of softmax(logits) against a Gaussian (`sigma` in cells) that sums to 1 on the map.

    The slides' "keypoints as heatmaps, loss: softmax". The Gaussian is separable and never rendered:
    H = logsumexp(z) - sum_ij gy_i z_ij gx_j.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits, target = _float_logits(logits, target, weight)
        gy, gx = (log.exp() for log in _log_profiles(target, logits, sigma))
        expected = ((logits @ gx[..., None])[..., 0] * gy).sum(-1)
        return reduce(logits.flatten(2).logsumexp(-1) - expected, weight)


def kl2d(logits: Tensor, target: Tensor, weight: Tensor, sigma: float, reduce: Reduce = mean_over_visible) -> Tensor:
    """Kullback-Leibler divergence of softmax(logits) from the Gaussian: `cross_entropy2d` less its least value.

    The same gradients; 0 where the map is the Gaussian.
    """
    _, target = _float_logits(logits, target, weight)
    entropy = -sum((log.exp() * log).sum(-1) for log in _log_profiles(target, logits, sigma))
    return cross_entropy2d(logits, target, weight, sigma, lambda values, weight: reduce(values - entropy, weight))


def js2d(logits: Tensor, target: Tensor, weight: Tensor, sigma: float, reduce: Reduce = mean_over_visible) -> Tensor:
    """Jensen-Shannon divergence of softmax(logits) and the Gaussian, at most log 2 (DSNT, Nibali et al. 2018)."""
    with torch.autocast(logits.device.type, enabled=False):
        logits, target = _float_logits(logits, target, weight)
        gy, gx = _log_profiles(target, logits, sigma)
        log_q = (gy[..., :, None] + gx[..., None, :]).flatten(2)
        log_p = logits.flatten(2).log_softmax(-1)
        log_m = torch.logaddexp(log_p, log_q) - math.log(2)
        values = (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum(-1) / 2
        return reduce(values, weight)


def variance2d(
    logits: Tensor, target: Tensor, weight: Tensor, sigma: float, reduce: Reduce = mean_over_visible
) -> Tensor:
    """Squared difference of the variances of softmax(logits) along x and y to sigma^2, in cells^4 (DSNT)."""
    with torch.autocast(logits.device.type, enabled=False):
        logits, _ = _float_logits(logits, target, weight)
        p = logits.flatten(2).softmax(-1).view(logits.shape)
        x, y = (_variance(p.sum(axis)) - sigma**2 for axis in (-2, -1))
        return reduce((x.square() + y.square()) / 2, weight)


def _variance(p: Tensor) -> Tensor:
    """Of distributions (B, K, n), in cells."""
    cells = torch.arange(p.shape[-1], device=p.device, dtype=p.dtype)
    centred = cells - (p * cells).sum(-1, keepdim=True)
    return (p * centred.square()).sum(-1)


def map_mse(maps: Tensor, target: Tensor, weight: Tensor, sigma: float, reduce: Reduce = mean_over_visible) -> Tensor:
    """Mean squared error per cell of maps (B, K, h, w) to Gaussians of peak 1."""
    maps, target = _float_logits(maps, target, weight)
    gaussian = render_gaussian2d(target, (maps.shape[-2], maps.shape[-1]), sigma)
    return reduce((maps - gaussian).square().mean((-2, -1)), weight)


def adaptive_wing2d(
    maps: Tensor, target: Tensor, weight: Tensor, sigma: float, reduce: Reduce = mean_over_visible
) -> Tensor:
    """Adaptive wing of maps (B, K, h, w) to Gaussians of peak 1, with its authors' weighting of the foreground.

    Wang et al. 2019, with their alpha 2.1, omega 14, epsilon 1, theta 0.5 and weight 10: as a wing where the Gaussian
    is high, as a square where it is low.
    """
    maps, target = _float_logits(maps, target, weight)
    gaussian = render_gaussian2d(target, (maps.shape[-2], maps.shape[-1]), sigma)
    alpha, omega, epsilon, theta = 2.1 - gaussian, 14.0, 1.0, 0.5
    ratio = (theta / epsilon) ** alpha
    slope = omega / (1 + ratio) * alpha * (theta / epsilon) ** (alpha - 1) / epsilon
    error = (maps - gaussian).abs()
    near = error < theta
    # Each branch sees only its own errors: the power of the other's would give NaN gradients at 0.
    inner = omega * torch.log1p((torch.where(near & (error > 0), error, theta) / epsilon) ** alpha)
    inner = torch.where(error > 0, inner, 0)
    values = torch.where(near, inner, slope * error - (theta * slope - omega * torch.log1p(ratio)))
    foreground = F.max_pool2d(gaussian, 3, 1, 1) > 0.2
    return reduce((values * torch.where(foreground, 11.0, 1.0)).mean((-2, -1)), weight)


COORDINATE_LOSSES = {"l1": l1, "smooth_l1": smooth_l1, "mse": mse, "wing": wing}
SOFTMAX_LOSSES = {"cross_entropy": cross_entropy2d, "kl": kl2d, "js": js2d, "variance": variance2d}
MAP_LOSSES = {"map_mse": map_mse, "adaptive_wing": adaptive_wing2d}
