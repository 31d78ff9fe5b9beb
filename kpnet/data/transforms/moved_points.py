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
        The same; `present` (B, K) as well where `points` has it.
    """
    # A list as an index would be sent to the device each time.
    keys = [key for key in ("keypoints", "visible", "weight", "present") if key in points]
    swapped = {key: _permute(points[key], permutation) for key in keys}
    moved: dict[str, Tensor] = {
        key: torch.where(mirrored.view(-1, *[1] * (value.ndim - 1)), value, points[key])
        for key, value in swapped.items()
    }
    pixels, there = project_batch(normalized_to_pixel(moved["keypoints"], size), matrix.to(points["keypoints"].dtype))
    return kept_points({**moved, "keypoints": pixel_to_normalized(pixels, size)}, there & inside(pixels, size))


def kept_points(points: dict[str, Tensor], kept: Tensor) -> dict[str, Tensor]:
    """Return points as part of a batch, absent where they are not `kept`.

    Args:
        points: `keypoints`, `visible`, `weight` and perhaps `present`, as for `move_points`.
        kept: Bool (B, K); what it says of points that are not visible does not matter.

    Returns:
        The same. What was visible and is not kept is not present.
    """
    visible = points["visible"] & kept
    found = {
        "keypoints": torch.where(visible[..., None], points["keypoints"], 0),
        "visible": visible,
        "weight": torch.where(visible, points["weight"], 0),
    }
    if "present" in points:
        found["present"] = torch.where(points["visible"] & ~kept, 0, points["present"])
    return found


def _permute(values: Tensor, permutation: Sequence[int]) -> Tensor:
    """Return values (B, K, ...) in another order of their points."""
    points = values.unbind(1)
    return torch.stack([points[k] for k in permutation], 1)
