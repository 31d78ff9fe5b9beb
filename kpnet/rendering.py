"""Render coordinates as maps: Gaussians around continuous points, as pure batched functions.

Points are (B, K, 2), normalised; a map (h, w) covers the image; `sigma` is in cells.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kpnet.coordinates import normalized_to_pixel

# The root of the smallest normal float32: profiles end here, so that no product of two is denormal. A processor
# takes a hundred times as long over each of those, and over each exponential below it.
_SMALLEST = 1.1e-19
_LOG_FLOOR = -45.0  # its exponential lies below that

_FAR = 1e6  # normalised: where a point that is not finite is taken to be


def log_gaussian_profiles(target: Tensor, size: tuple[int, int], sigma: float) -> tuple[Tensor, Tensor]:
    """Return the logarithms of the two factors of Gaussian maps around points.

    The centre is the point itself, never rounded to a cell; the peak is log 1 = 0.

    Args:
        target: Normalised points (B, K, 2).
        size: Size (h, w) of the maps in cells.
        sigma: Standard deviation of the Gaussians in cells.

    Returns:
        Profiles (B, K, h) along y and (B, K, w) along x.
    """
    cells = normalized_to_pixel(target, size)
    y = torch.arange(size[0], device=target.device, dtype=target.dtype) - cells[..., 1:]
    x = torch.arange(size[1], device=target.device, dtype=target.dtype) - cells[..., :1]
    return -0.5 * (y / sigma) ** 2, -0.5 * (x / sigma) ** 2


def render_gaussian2d(xy: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Render Gaussian maps around points, with 1 at the point itself, never rounded to a cell.

    Maps are at least float32, 0 from 9.3 sigma off along an axis, and 0 everywhere for a point that is not finite. They
    are differentiable in `xy`.

    Args:
        xy: Normalised points (B, K, 2).
        size: Size (h, w) of the maps in cells.
        sigma: Standard deviation of the Gaussians in cells.

    Returns:
        Maps (B, K, h, w).

    Raises:
        ValueError: If the shape is wrong or sigma is not positive.
    """
    if xy.ndim != 3 or xy.shape[-1] != 2:
        raise ValueError(f"expected points (B, K, 2), got {tuple(xy.shape)}")
    if not sigma > 0:
        raise ValueError(f"expected a sigma > 0 in cells, got {sigma}")
    xy = xy if xy.dtype == torch.float64 else xy.float()
    xy = xy.nan_to_num(_FAR, _FAR, -_FAR).clamp(-_FAR, _FAR)
    logs = log_gaussian_profiles(xy, size, sigma)
    rows, columns = (F.threshold(log.clamp(min=_LOG_FLOOR).exp(), _SMALLEST, 0.0) for log in logs)
    return rows[..., :, None] * columns[..., None, :]
