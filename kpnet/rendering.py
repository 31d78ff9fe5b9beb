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


def render_highest2d(xy: Tensor, size: tuple[int, int], sigma: Tensor) -> Tensor:
    """Render the highest of the Gaussians of several instances at each cell, with 1 at the points themselves.

    Args:
        xy: Normalised points (B, M, K, 2) of M instances; one that is not finite is skipped.
        size: Size (h, w) of the maps in cells.
        sigma: Standard deviations along x and y in cells, a tensor that broadcasts to (B, M, K, 2).

    Returns:
        Maps (B, K, h, w), at least float32, 0 where there is no instance. They carry no gradient.
    """
    xy = xy.detach() if xy.dtype == torch.float64 else xy.detach().float()
    known = xy.isfinite().all(-1)
    cells = normalized_to_pixel(torch.where(known[..., None], xy, 0), size)
    precise = 1 / sigma.to(xy).expand_as(xy)
    maps = xy.new_zeros(xy.shape[0], xy.shape[2], *size)
    across, down = (torch.arange(n, device=xy.device, dtype=xy.dtype) for n in (size[1], size[0]))
    for one, scale, there in zip(cells.unbind(1), precise.unbind(1), known.unbind(1), strict=True):
        columns = _profile((across - one[..., :1]) * scale[..., :1])
        rows = torch.where(there[..., None], _profile((down - one[..., 1:]) * scale[..., 1:]), 0)
        maps = torch.maximum(maps, rows[..., :, None] * columns[..., None, :])
    return maps


def _profile(distance: Tensor) -> Tensor:
    """Return exp(-distance² / 2), 0 where it is smaller than can be multiplied."""
    return F.threshold((-0.5 * distance**2).clamp(min=_LOG_FLOOR).exp(), _SMALLEST, 0.0)
