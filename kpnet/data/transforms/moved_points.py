"""The points of a batch after its images were moved by matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kpnet.coordinates import Size, inside, normalized_to_pixel, pixel_to_normalized, project_batch


def move_points(
    points: dict[str, Any], matrix: Tensor, mirrored: Tensor, permutation: Sequence[int], size: Size
) -> dict[str, Tensor]:
    """Return moved points, swapped where the image is mirrored, and absent where they are outside of it.

    Args:
        points: `keypoints` (B, K, 2) in [-1, 1], `visible` (B, K), bool, and `weight` (B, K).
        matrix: Matrices (B, 3, 3) from pixels to pixels.
        mirrored: Which of the images are mirrored, bool (B,).
        permutation: The order of the points in a mirrored image.
        size: Height and width of the images.

    Returns:
        The same three.
    """
    # A list as an index would be sent to the device each time.
    swapped = {key: _permute(points[key], permutation) for key in ("keypoints", "visible", "weight")}
    xy, visible, weight = (
        torch.where(mirrored.view(-1, *[1] * (value.ndim - 1)), value, points[key]) for key, value in swapped.items()
    )
    pixels, there = project_batch(normalized_to_pixel(xy, size), matrix.to(xy.dtype))
    return present_points(pixel_to_normalized(pixels, size), visible & there & inside(pixels, size), weight)


def present_points(xy: Tensor, visible: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Return points (B, K, 2) in [-1, 1] as part of a batch, absent where they are not `visible` (B, K)."""
    return {
        "keypoints": torch.where(visible[..., None], xy, 0),
        "visible": visible,
        "weight": torch.where(visible, weight, 0),
    }


def _permute(values: Tensor, permutation: Sequence[int]) -> Tensor:
    """Return values (B, K, ...) in another order of their points."""
    points = values.unbind(1)
    return torch.stack([points[k] for k in permutation], 1)
