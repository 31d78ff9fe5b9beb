"""Losses over visible points: pure functions.

Points are (B, K, 2), normalised; logits and maps are (B, K, h, w). `weight` is float (B, K), 0 for an absent point,
whose target may be anything, NaN included. Each loss is a scalar, made by `reduce` from errors (B, K):
`mean_over_visible` or `ohkm(count)`. Where nothing is visible, the loss and all gradients are 0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kpnet.rendering import log_gaussian_profiles, render_gaussian2d

Reduce = Callable[[Tensor, Tensor], Tensor]


def mean_over_visible(values: Tensor, weight: Tensor) -> Tensor:
    """Return the sum of `weight * values` over the number of points with a weight above 0.

    Values of weight 0 have no influence, NaN included.

    Args:
        values: Errors (B, K).
        weight: Weights (B, K), 0 for an absent point.

    Returns:
        The mean, a scalar.
    """
    visible = weight > 0
    total = torch.where(visible, values * weight, 0).sum()
    return total / visible.sum().clamp(min=1)


def ohkm(count: int) -> Reduce:
    """Return a reduction to the mean over each image's largest errors: online hard keypoint mining.

    Chen et al. 2018, "Cascaded pyramid network for multi-person pose estimation".

    Args:
        count: Number of errors per image to keep.

    Returns:
        A function of errors and weights (B, K), for the `reduce` of a loss.
    """

    return functools.partial(_mean_over_hardest, count)  # unlike a function in here, it can be pickled


def points_averaged(weight: Tensor, reduce: Reduce = mean_over_visible) -> Tensor:
    """Return how many points a reduction averages over, which is what it divides by.

    Args:
        weight: Weights (B, K), 0 for an absent point.
        reduce: `mean_over_visible`, or what `ohkm` returned; another one counts as a mean over the visible points.

    Returns:
        The number of points, an integer scalar; 0 where nothing is visible.
    """
    each = (weight > 0).sum(-1)
    if isinstance(reduce, functools.partial) and reduce.func is _mean_over_hardest:
        each = each.clamp(max=reduce.args[0])
    return each.sum()


def _mean_over_hardest(count: int, values: Tensor, weight: Tensor) -> Tensor:
    weighted = torch.where(weight > 0, values.detach() * weight, -torch.inf)
    hardest = weighted.topk(min(count, weight.shape[-1]), -1).indices
    return mean_over_visible(values.gather(-1, hardest), weight.gather(-1, hardest))


def check_shapes(predicted: Tensor, target: Tensor, weight: Tensor) -> None:
    """Check that predictions, targets and weights have the same B and K.

    Args:
        predicted: Predictions (B, K, ...).
        target: True points (B, K, 2).
        weight: Weights (B, K).

    Raises:
        ValueError: If they do not.
    """
    if not predicted.shape[:2] == target.shape[:2] == weight.shape or target.shape[2:] != (2,):
        raise ValueError(
            "expected predictions (B, K, ...), points (B, K, 2) and weight (B, K), got "
            f"{tuple(predicted.shape)}, {tuple(target.shape)} and {tuple(weight.shape)}"
        )


def _select(predicted: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return both (B, K, 2), 0 where absent: selected before the arithmetic, as NaN * 0 is NaN."""
    check_shapes(predicted, target, weight)
    visible = (weight > 0)[..., None]
    return torch.where(visible, predicted, 0), torch.where(visible, target, 0)


# Losses of coordinates


def l1(predicted: Tensor, target: Tensor, weight: Tensor, reduce: Reduce = mean_over_visible) -> Tensor:
    """Return the mean absolute error per coordinate.

    Args:
        predicted: Predicted points (B, K, 2), normalised.
        target: True points (B, K, 2), normalised.
        weight: Weights (B, K), 0 for an absent point.
        reduce: Turns errors and weights (B, K) into the loss.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: If shapes do not fit.
    """
    predicted, target = _select(predicted, target, weight)
    return reduce((predicted - target).abs().mean(-1), weight)


def mse(predicted: Tensor, target: Tensor, weight: Tensor, reduce: Reduce = mean_over_visible) -> Tensor:
    """Return the mean squared error per coordinate: the course's criterion.

    Args:
        predicted: Predicted points (B, K, 2), normalised.
        target: True points (B, K, 2), normalised.
        weight: Weights (B, K), 0 for an absent point.
        reduce: Turns errors and weights (B, K) into the loss.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: If shapes do not fit.
    """
    predicted, target = _select(predicted, target, weight)
    return reduce((predicted - target).square().mean(-1), weight)


def smooth_l1(
    predicted: Tensor, target: Tensor, weight: Tensor, reduce: Reduce = mean_over_visible, beta: float = 0.02
) -> Tensor:
    """Return the smooth L1 loss: quadratic for errors below `beta`, L1 above.

    Girshick 2015, "Fast R-CNN".

    Args:
        predicted: Predicted points (B, K, 2), normalised.
        target: True points (B, K, 2), normalised.
        weight: Weights (B, K), 0 for an absent point.
        reduce: Turns errors and weights (B, K) into the loss.
        beta: Where the two parts meet, normalised; 0.02 is about a pixel of a 96 px image.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: If shapes do not fit.
    """
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
    """Return the wing loss: logarithmic below `width`, L1 above, so that small errors count as well as large ones.

    Feng et al. 2018, "Wing loss for robust facial landmark localisation with convolutional neural networks". Scaled to
    agree with L1's slope for large errors.

    Args:
        predicted: Predicted points (B, K, 2), normalised.
        target: True points (B, K, 2), normalised.
        weight: Weights (B, K), 0 for an absent point.
        reduce: Turns errors and weights (B, K) into the loss.
        width: Where the two parts meet, normalised: the paper's 10 pixels of 256.
        curvature: Curvature of the logarithmic part, normalised: the paper's 2 pixels of 256.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: If shapes do not fit.
    """
    predicted, target = _select(predicted, target, weight)
    error = (predicted - target).abs()
    offset = width - width * math.log1p(width / curvature)
    values = torch.where(error < width, width * torch.log1p(error / curvature), error - offset)
    return reduce(values.mean(-1), weight)


def gaussian_nll(
    predicted: Tensor, log_scale: Tensor, target: Tensor, weight: Tensor, reduce: Reduce = mean_over_visible
) -> Tensor:
    """Return the mean negative log-likelihood per coordinate under normal errors.

    Args:
        predicted: Predicted points (B, K, 2), normalised.
        log_scale: Logarithm of the standard deviation (B, K, 2), normalised.
        target: True points (B, K, 2), normalised.
        weight: Weights (B, K), 0 for an absent point.
        reduce: Turns errors and weights (B, K) into the loss.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: If shapes do not fit.
    """
    predicted, target = _select(predicted, target, weight)
    scaled = (target - predicted) * torch.exp(-log_scale)
    return reduce((0.5 * scaled.square() + log_scale + 0.5 * math.log(2 * math.pi)).mean(-1), weight)


def laplace_nll(
    predicted: Tensor, log_scale: Tensor, target: Tensor, weight: Tensor, reduce: Reduce = mean_over_visible
) -> Tensor:
    """Return the mean negative log-likelihood per coordinate under Laplace errors.

    Args:
        predicted: Predicted points (B, K, 2), normalised.
        log_scale: Logarithm of the mean absolute error (B, K, 2), normalised.
        target: True points (B, K, 2), normalised.
        weight: Weights (B, K), 0 for an absent point.
        reduce: Turns errors and weights (B, K) into the loss.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: If shapes do not fit.
    """
    predicted, target = _select(predicted, target, weight)
    scaled = (target - predicted) * torch.exp(-log_scale)
    return reduce((scaled.abs() + log_scale + math.log(2)).mean(-1), weight)


# Losses of maps, against a Gaussian around the target; `sigma` is in cells


def _float_logits(logits: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in at least float32, with absent targets 0."""
    check_shapes(logits, target, weight)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits, torch.where((weight > 0)[..., None], target, 0).to(logits.dtype)


def _log_profiles(target: Tensor, maps: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Return the logarithms of the factors (B, K, h), (B, K, w) of a Gaussian that sums to 1 on the map.

    They are taken by log_softmax: an exponential far from the border would underflow to 0 / 0.
    """
    gy, gx = log_gaussian_profiles(target, (maps.shape[-2], maps.shape[-1]), sigma)
    return gy.log_softmax(-1), gx.log_softmax(-1)


def axis_cross_entropy(logits: Tensor, log_target: Tensor) -> Tensor:
    """Return the cross-entropy of softmax(logits) against exp(log_target) along one axis.

    Args:
        logits: Logits (B, K, n).
        log_target: Logarithm of the target distribution (B, K, n).

    Returns:
        Errors (B, K).
    """
    return -(log_target.exp() * logits.log_softmax(-1)).sum(-1)


def axis_kl(logits: Tensor, log_target: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of softmax(logits) from exp(log_target) along one axis.

    Args:
        logits: Logits (B, K, n).
        log_target: Logarithm of the target distribution (B, K, n).

    Returns:
        Errors (B, K).
    """
    return (log_target.exp() * (log_target - logits.log_softmax(-1))).sum(-1)


def cross_entropy2d(
    logits: Tensor, target: Tensor, weight: Tensor, sigma: float, reduce: Reduce = mean_over_visible
) -> Tensor:
    """Return the spatial cross-entropy of softmax(logits) against a Gaussian that sums to 1 on the map.

    The loss of the course's slides for keypoints as heatmaps. The Gaussian is separable and never rendered:
    H = logsumexp(z) - sum_ij gy_i z_ij gx_j.

    Args:
        logits: Logits (B, K, h, w).
        target: True points (B, K, 2), normalised.
        weight: Weights (B, K), 0 for an absent point.
        sigma: Standard deviation of the Gaussian in cells.
        reduce: Turns errors and weights (B, K) into the loss.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: If shapes do not fit.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits, target = _float_logits(logits, target, weight)
        gy, gx = (log.exp() for log in _log_profiles(target, logits, sigma))
        expected = ((logits @ gx[..., None])[..., 0] * gy).sum(-1)
        return reduce(logits.flatten(2).logsumexp(-1) - expected, weight)


def kl2d(logits: Tensor, target: Tensor, weight: Tensor, sigma: float, reduce: Reduce = mean_over_visible) -> Tensor:
    """Return the Kullback-Leibler divergence of softmax(logits) from the Gaussian.

    It is `cross_entropy2d` minus the entropy of the Gaussian: 0 where the map is the Gaussian, with the same gradients.

    Args:
        logits: Logits (B, K, h, w).
        target: True points (B, K, 2), normalised.
        weight: Weights (B, K), 0 for an absent point.
        sigma: Standard deviation of the Gaussian in cells.
        reduce: Turns errors and weights (B, K) into the loss.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: If shapes do not fit.
    """
    _, target = _float_logits(logits, target, weight)
    entropy = -sum((log.exp() * log).sum(-1) for log in _log_profiles(target, logits, sigma))
    return cross_entropy2d(logits, target, weight, sigma, lambda values, weight: reduce(values - entropy, weight))


def js2d(logits: Tensor, target: Tensor, weight: Tensor, sigma: float, reduce: Reduce = mean_over_visible) -> Tensor:
    """Return the Jensen-Shannon divergence of softmax(logits) and the Gaussian, at most log 2.

    Nibali et al. 2018, "Numerical coordinate regression with convolutional neural networks" (DSNT).

    Args:
        logits: Logits (B, K, h, w).
        target: True points (B, K, 2), normalised.
        weight: Weights (B, K), 0 for an absent point.
        sigma: Standard deviation of the Gaussian in cells.
        reduce: Turns errors and weights (B, K) into the loss.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: If shapes do not fit.
    """
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
    """Return the squared difference between the variances of softmax(logits) along x and y and sigma².

    In cells⁴. Nibali et al. 2018, "Numerical coordinate regression with convolutional neural networks" (DSNT).

    Args:
        logits: Logits (B, K, h, w).
        target: True points (B, K, 2), normalised.
        weight: Weights (B, K), 0 for an absent point.
        sigma: Standard deviation to reach, in cells.
        reduce: Turns errors and weights (B, K) into the loss.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: If shapes do not fit.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits, _ = _float_logits(logits, target, weight)
        p = logits.flatten(2).softmax(-1).view(logits.shape)
        x, y = (_variance(p.sum(axis)) - sigma**2 for axis in (-2, -1))
        return reduce((x.square() + y.square()) / 2, weight)


def _variance(p: Tensor) -> Tensor:
    """Return the variances (B, K) of distributions (B, K, n), in cells squared."""
    cells = torch.arange(p.shape[-1], device=p.device, dtype=p.dtype)
    centred = cells - (p * cells).sum(-1, keepdim=True)
    return (p * centred.square()).sum(-1)


def map_mse(maps: Tensor, target: Tensor, weight: Tensor, sigma: float, reduce: Reduce = mean_over_visible) -> Tensor:
    """Return the mean squared error per cell between maps and Gaussians of peak 1.

    Args:
        maps: Maps (B, K, h, w).
        target: True points (B, K, 2), normalised.
        weight: Weights (B, K), 0 for an absent point.
        sigma: Standard deviation of the Gaussian in cells.
        reduce: Turns errors and weights (B, K) into the loss.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: If shapes do not fit.
    """
    maps, target = _float_logits(maps, target, weight)
    gaussian = render_gaussian2d(target, (maps.shape[-2], maps.shape[-1]), sigma)
    return reduce((maps - gaussian).square().mean((-2, -1)), weight)


def adaptive_wing2d(
    maps: Tensor, target: Tensor, weight: Tensor, sigma: float, reduce: Reduce = mean_over_visible
) -> Tensor:
    """Return the adaptive wing loss between maps and Gaussians of peak 1, with more weight on the foreground.

    Wang et al. 2019, "Adaptive wing loss for robust face alignment via heatmap regression", with their alpha 2.1, omega
    14, epsilon 1, theta 0.5 and weight 10. It acts like a wing loss where the Gaussian is high, like a squared error
    where it is low.

    Args:
        maps: Maps (B, K, h, w).
        target: True points (B, K, 2), normalised.
        weight: Weights (B, K), 0 for an absent point.
        sigma: Standard deviation of the Gaussian in cells.
        reduce: Turns errors and weights (B, K) into the loss.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: If shapes do not fit.
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


# Losses of instances


def focal2d(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the penalty-reduced focal loss of maps that are to have a peak at each instance, summed over each map.

    Law and Deng 2018, "CornerNet: detecting objects as paired keypoints"; Zhou et al. 2019, "Objects as points". Cells
    of target 1 are the peaks, and the penalty of the others falls with the fourth power of 1 - target. It is computed
    from logits, so that it is finite for every finite one.

    Args:
        logits: Logits (B, K, h, w) of a cell being a peak.
        target: Targets (B, K, h, w) in [0, 1].
        weight: Weights (B, K, h, w), or what broadcasts to them; 0 for a cell that counts for nothing.

    Returns:
        Errors (B, K), at least float32.

    Raises:
        ValueError: If shapes do not fit.
    """
    if logits.ndim != 4 or logits.shape != target.shape:
        raise ValueError(f"expected logits and targets (B, K, h, w), got {tuple(logits.shape)}, {tuple(target.shape)}")
    logits = logits if logits.dtype == torch.float64 else logits.float()
    p = logits.sigmoid()
    peak = (1 - p).square() * F.softplus(-logits)
    elsewhere = (1 - target).square().square() * p.square() * F.softplus(logits)
    return (torch.where(target == 1, peak, elsewhere) * weight).sum((-2, -1))


def generalized_iou(predicted: Tensor, target: Tensor) -> Tensor:
    """Return 1 - GIoU of boxes: 0 for equal boxes, up to 2 for boxes far apart.

    Rezatofighi et al. 2019, "Generalized intersection over union". A box without area is no division by 0.

    Args:
        predicted: Boxes (..., 4), edges x0, y0, x1, y1.
        target: Boxes (..., 4).

    Returns:
        Errors (...).
    """
    (low, high), (true_low, true_high) = (each.unflatten(-1, (2, 2)).unbind(-2) for each in (predicted, target))
    tiny = torch.finfo(predicted.dtype).eps ** 2
    both = (torch.minimum(high, true_high) - torch.maximum(low, true_low)).clamp(min=0).prod(-1)
    hull = (torch.maximum(high, true_high) - torch.minimum(low, true_low)).prod(-1)
    either = (high - low).prod(-1) + (true_high - true_low).prod(-1) - both
    return 2 - both / (either + tiny) - (either + tiny) / (hull + tiny)


COORDINATE_LOSSES = {"l1": l1, "smooth_l1": smooth_l1, "mse": mse, "wing": wing}
SOFTMAX_LOSSES = {"cross_entropy": cross_entropy2d, "kl": kl2d, "js": js2d, "variance": variance2d}
MAP_LOSSES = {"map_mse": map_mse, "adaptive_wing": adaptive_wing2d}
