"""The one owner of every coordinate mapping.

A pixel index is a pixel's centre: the left edge of an image is at x = -0.5. Normalised
coordinates are `(2 x + 1) / W - 1` (`grid_sample`'s `align_corners=False`), so an image, a
resized copy and a heatmap of it share them. Sizes are (H, W), points are (..., 2) as x, y;
arrays and tensors both do, and come back as what they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch

Points = TypeVar("Points", np.ndarray, torch.Tensor)
Size = tuple[int, int]


def _like(values: tuple[float, float], xy: Points) -> Points:
    if isinstance(xy, torch.Tensor):
        return torch.tensor(values, dtype=xy.dtype, device=xy.device)
    return np.asarray(values, dtype=xy.dtype)


def pixel_to_normalized(xy: Points, size: Size) -> Points:
    """Pixels (..., 2) of an image, or cells of a map, of `size` (H, W) to [-1, 1]."""
    height, width = size
    return (2 * xy + 1) / _like((width, height), xy) - 1


def normalized_to_pixel(xy: Points, size: Size) -> Points:
    """[-1, 1] to pixels (..., 2) of an image, or cells of a map, of `size` (H, W)."""
    height, width = size
    return ((xy + 1) * _like((width, height), xy) - 1) / 2


def normalized_distance_to_pixel(delta: Points, size: Size) -> Points:
    """Differences (..., 2) of normalised points as pixels."""
    height, width = size
    return delta * _like((width / 2, height / 2), delta)


def pixel_distance_to_normalized(delta: Points, size: Size) -> Points:
    """Differences (..., 2) of pixels as those of normalised points."""
    height, width = size
    return delta * _like((2 / width, 2 / height), delta)


def cell_centers(cells: int, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Normalised centres (cells,) of the cells along one axis of a map that covers the image."""
    return (2 * torch.arange(cells, device=device, dtype=dtype) + 1) / cells - 1


def flip_pixels(xy: Points, size: Size, permutation: list[int]) -> Points:
    """Points (..., K, 2) of the horizontally mirrored image: x to W - 1 - x, left and right labels swapped."""
    return _like((-1, 1), xy) * xy[..., permutation, :] + _like((size[1] - 1, 0), xy)


def flip_normalized(xy: Points, permutation: list[int]) -> Points:
    """As `flip_pixels`, for normalised points: x to -x."""
    return _like((-1, 1), xy) * xy[..., permutation, :]


def inside(xy: Points, size: Size) -> Points:
    """Bool (...): does the pixel point lie on the image (-0.5 to W - 0.5)?"""
    height, width = size
    return (xy[..., 0] >= -0.5) & (xy[..., 0] <= width - 0.5) & (xy[..., 1] >= -0.5) & (xy[..., 1] <= height - 0.5)


def corner_size_to_box(boxes: np.ndarray) -> np.ndarray:
    """COCO's boxes (..., 4), x, y, width, height on an image that begins at 0, as edges x0, y0, x1, y1 in pixels,
    where it begins at -0.5. COCO's keypoints are pixel indices and stay as they are."""
    boxes = np.asarray(boxes, np.float64)
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1) - 0.5


def box_to_corner_size(boxes: np.ndarray) -> np.ndarray:
    """The inverse of `corner_size_to_box`."""
    boxes = np.asarray(boxes, np.float64)
    return np.concatenate([boxes[..., :2] + 0.5, boxes[..., 2:] - boxes[..., :2]], axis=-1)


# Pixel-to-pixel mappings are 2x3 matrices, as cv2.warpAffine takes them (source to destination).


def resize_matrix(source: Size, target: Size) -> np.ndarray:
    """Pixels of an image of size `source` to pixels after a resize to `target`: (x + 0.5) s - 0.5."""
    sy, sx = target[0] / source[0], target[1] / source[1]
    return np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2]])


def letterbox_matrix(source: Size, target: Size) -> tuple[np.ndarray, Size]:
    """Fit `source` into `target`, aspect kept, centred on whole pixels.

    Returns the 2x3 matrix and the size (h, w) to which the image itself is resized;
    the rounding of that size is part of the matrix.
    """
    scale = min(target[0] / source[0], target[1] / source[1])
    size = (
        min(target[0], max(1, round(source[0] * scale))),
        min(target[1], max(1, round(source[1] * scale))),
    )
    matrix = resize_matrix(source, size)
    matrix[:, 2] += ((target[1] - size[1]) // 2, (target[0] - size[0]) // 2)
    return matrix, size


def after_crop(matrix: np.ndarray, left: int, top: int) -> np.ndarray:
    """A mapping of a crop's pixels as one of the whole image's; the crop begins at pixel (left, top)."""
    moved = matrix.copy()
    moved[:, 2] -= matrix[:, :2] @ (left, top)
    return moved


def crop_region(
    box: Sequence[float] | np.ndarray, scale: float, source: Size, target: Size
) -> tuple[int, int, int, int]:
    """Whole pixels [left, right) x [top, bottom) about a box of an image, as (left, top, right, bottom).

    The box (edges x0, y0, x1, y1; what lies outside the image of size `source` does not count) is made `scale` times as
    large and then wide or high enough for the aspect of `target` (H, W); it may reach beyond the image. A ValueError
    for a box with no area on the image.
    """
    edges = np.clip(np.asarray(box, np.float64).reshape(2, 2), -0.5, (source[1] - 0.5, source[0] - 0.5))
    sides = edges[1] - edges[0]
    if not (sides > 0).all():
        raise ValueError(
            f"box {list(map(float, box))}: no area on an image of {source[1]}x{source[0]} (width x height)"
        )
    aspect = target[1] / target[0]
    width, height = scale * max(sides[0], sides[1] * aspect), scale * max(sides[1], sides[0] / aspect)
    whole = np.maximum(np.round((width, height)), 1).astype(int)
    left, top = np.round(edges.mean(0) + 0.5 - whole / 2).astype(int)
    return int(left), int(top), int(left + whole[0]), int(top + whole[1])


def invert(matrix: np.ndarray) -> np.ndarray:
    """The inverse of a 2x3 mapping."""
    return np.linalg.inv(np.vstack([matrix, (0, 0, 1)]))[:2]


def transform(xy: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points (..., 2) through a 2x3 mapping, in float64."""
    return np.asarray(xy, np.float64) @ matrix[:, :2].T + matrix[:, 2]
