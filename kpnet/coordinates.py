"""Coordinate mappings: the one place where pixels, normalised coordinates, boxes and matrices are converted.

A pixel index is a pixel's centre: the left edge of an image is at x = -0.5. Normalised
coordinates are `(2 x + 1) / W - 1` (`grid_sample`'s `align_corners=False`), so an image, a
resized copy and a heatmap of it share them. Sizes are (H, W), points are (..., 2) as x, y.
Functions of points take arrays and tensors, and return the same kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch

Points = TypeVar("Points", np.ndarray, torch.Tensor)
Values = TypeVar("Values", float, np.ndarray)
Size = tuple[int, int]


def _like(values: tuple[float, float], xy: Points) -> Points:
    if isinstance(xy, torch.Tensor) and xy.device.type == "cpu":
        return torch.tensor(values, dtype=xy.dtype)
    if isinstance(xy, torch.Tensor):  # made on the device: a copy to it would make the processor wait
        return torch.stack([xy.new_full((), value) for value in values])
    return np.asarray(values, dtype=xy.dtype)


def pixel_to_normalized(xy: Points, size: Size) -> Points:
    """Convert pixels of an image, or cells of a map, to normalised coordinates.

    Args:
        xy: Points (..., 2) in pixels or cells.
        size: Size (H, W) of the image or map.

    Returns:
        Points (..., 2), in [-1, 1] on the image.
    """
    height, width = size
    return (2 * xy + 1) / _like((width, height), xy) - 1


def normalized_to_pixel(xy: Points, size: Size) -> Points:
    """Convert normalised coordinates to pixels of an image, or cells of a map.

    Args:
        xy: Normalised points (..., 2).
        size: Size (H, W) of the image or map.

    Returns:
        Points (..., 2) in pixels or cells.
    """
    height, width = size
    return ((xy + 1) * _like((width, height), xy) - 1) / 2


def normalized_distance_to_pixel(delta: Points, size: Size) -> Points:
    """Convert differences of normalised points to pixels.

    Args:
        delta: Differences (..., 2) of normalised points.
        size: Size (H, W) of the image.

    Returns:
        Differences (..., 2) in pixels.
    """
    height, width = size
    return delta * _like((width / 2, height / 2), delta)


def pixel_distance_to_normalized(delta: Points, size: Size) -> Points:
    """Convert differences in pixels to differences of normalised points.

    Args:
        delta: Differences (..., 2) in pixels.
        size: Size (H, W) of the image.

    Returns:
        Differences (..., 2) of normalised points.
    """
    height, width = size
    return delta * _like((2 / width, 2 / height), delta)


def cell_centers(cells: int, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return the centres of the cells along one axis of a map that covers the image.

    Args:
        cells: Number of cells.
        device: Device of the result.
        dtype: Data type of the result.

    Returns:
        Normalised coordinates (cells,).
    """
    return (2 * torch.arange(cells, device=device, dtype=dtype) + 1) / cells - 1


def flip_normalized(xy: Points, permutation: list[int]) -> Points:
    """Mirror normalised points horizontally: x to -x, with left and right labels swapped.

    Args:
        xy: Normalised points (..., K, 2).
        permutation: Index of the point that takes each point's place, as in `Skeleton.flip_permutation`.

    Returns:
        Normalised points (..., K, 2) of the mirrored image.
    """
    return _like((-1, 1), xy) * xy[..., permutation, :]


def inside(xy: Points, size: Size) -> Points:
    """Return which points lie on the image, from -0.5 to W - 0.5 and H - 0.5.

    Args:
        xy: Points (..., 2) in pixels.
        size: Size (H, W) of the image.

    Returns:
        Bool (...).
    """
    height, width = size
    return (xy[..., 0] >= -0.5) & (xy[..., 0] <= width - 0.5) & (xy[..., 1] >= -0.5) & (xy[..., 1] <= height - 0.5)


def inside_box(xy: Points, boxes: Points) -> Points:
    """Return which points lie in boxes; unlike those of `inside`, right and bottom edges are outside.

    Args:
        xy: Points (..., 2) in pixels.
        boxes: Boxes (..., 4), edges x0, y0, x1, y1 in pixels; points and boxes are broadcast.

    Returns:
        Bool (...), false for points of NaN.
    """
    x, y = xy[..., 0], xy[..., 1]
    return (x >= boxes[..., 0]) & (x < boxes[..., 2]) & (y >= boxes[..., 1]) & (y < boxes[..., 3])


def corner_size_to_box(boxes: np.ndarray) -> np.ndarray:
    """Convert COCO's boxes to edges in pixels.

    COCO's images begin at 0, kpnet's at -0.5. COCO's keypoints are pixel indices and stay as they are.

    Args:
        boxes: Boxes (..., 4) as x, y, width, height.

    Returns:
        Boxes (..., 4) as x0, y0, x1, y1, float64.
    """
    boxes = np.asarray(boxes, np.float64)
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1) - 0.5


def box_to_corner_size(boxes: np.ndarray) -> np.ndarray:
    """Convert edges in pixels to COCO's boxes: the inverse of `corner_size_to_box`.

    Args:
        boxes: Boxes (..., 4) as x0, y0, x1, y1.

    Returns:
        Boxes (..., 4) as x, y, width, height, float64.
    """
    boxes = np.asarray(boxes, np.float64)
    return np.concatenate([boxes[..., :2] + 0.5, boxes[..., 2:] - boxes[..., :2]], axis=-1)


def edge_to_pixel(values: Values) -> Values:
    """Convert coordinates that are counted from the image's left and upper edge, as browsers do, to pixels.

    Args:
        values: Coordinates of points or boxes, of any shape; the centre of the first pixel is 0.5.

    Returns:
        The coordinates in pixels; the centre of the first pixel is 0.
    """
    return values - 0.5


def pixel_to_edge(values: Values) -> Values:
    """Convert coordinates in pixels to those from the image's left and upper edge: the inverse of `edge_to_pixel`.

    Args:
        values: Coordinates of points or boxes in pixels, of any shape.

    Returns:
        The coordinates from the edge; the centre of the first pixel is 0.5.
    """
    return values + 0.5


def box_of_points(xy: np.ndarray) -> np.ndarray:
    """Return the edges of the box around the pixels of points.

    Args:
        xy: At least one point (K, 2), in pixels, without NaN.

    Returns:
        Edges x0, y0, x1, y1 in pixels, float64.
    """
    return np.concatenate([xy.min(0) - 0.5, xy.max(0) + 0.5])


# Pixel-to-pixel mappings are 2x3 matrices, as cv2.warpAffine takes them (source to destination).


def resize_matrix(source: Size, target: Size) -> np.ndarray:
    """Return the mapping of a resize, (x + 0.5) s - 0.5 along each axis.

    Args:
        source: Size (H, W) of the image.
        target: Size (H, W) of the resized image.

    Returns:
        Matrix (2, 3) from pixels of the image to pixels of the resized one.
    """
    sy, sx = target[0] / source[0], target[1] / source[1]
    return np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2]])


def letterbox_matrix(source: Size, target: Size) -> tuple[np.ndarray, Size]:
    """Return the mapping that fits an image into another size, aspect kept, centred on whole pixels.

    Args:
        source: Size (H, W) of the image.
        target: Size (H, W) to fit it into.

    Returns:
        Matrix (2, 3) from pixels to pixels, and the size (h, w) to which the image itself is resized. The rounding of
        that size is part of the matrix.
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
    """Turn a mapping of a crop's pixels into one of the whole image's pixels.

    Args:
        matrix: Matrix (2, 3) that takes pixels of the crop.
        left: First column of the crop.
        top: First row of the crop.

    Returns:
        Matrix (2, 3) that takes pixels of the whole image.
    """
    moved = matrix.copy()
    moved[:, 2] -= matrix[:, :2] @ (left, top)
    return moved


def crop_region(
    box: Sequence[float] | np.ndarray, scale: float, source: Size, target: Size
) -> tuple[int, int, int, int]:
    """Return the region of whole pixels around a box.

    The box is cut to the image, enlarged by `scale`, and made wide or high enough for the aspect ratio of `target`. The
    region may reach beyond the image.

    Args:
        box: Edges x0, y0, x1, y1 in pixels.
        scale: Size of the region relative to the box.
        source: Size (H, W) of the image.
        target: Size (H, W) whose aspect ratio the region has.

    Returns:
        (left, top, right, bottom) in pixels; right and bottom are exclusive.

    Raises:
        ValueError: If the box has no area on the image.
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
    """Return the inverse of a mapping.

    Args:
        matrix: Matrix (2, 3).

    Returns:
        Matrix (2, 3).
    """
    return np.linalg.inv(np.vstack([matrix, (0, 0, 1)]))[:2]


def transform(xy: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Map points by a matrix.

    Args:
        xy: Points (..., 2).
        matrix: Matrix (2, 3).

    Returns:
        Points (..., 2), float64.
    """
    return np.asarray(xy, np.float64) @ matrix[:, :2].T + matrix[:, 2]


def project_batch(xy: torch.Tensor, matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Map points of a batch by projective matrices.

    Args:
        xy: Points (B, K, 2).
        matrix: Matrices (B, 3, 3), one for each image.

    Returns:
        Points (B, K, 2), and which of them do not lie behind the horizon of a perspective, bool (B, K).
    """
    moved = xy @ matrix[:, :2, :2].mT + matrix[:, None, :2, 2]
    depth = xy @ matrix[:, 2:, :2].mT + matrix[:, None, 2:, 2]
    return moved / torch.where(depth > 0, depth, 1), depth[..., 0] > 0


def largest_stretch(matrices: torch.Tensor) -> torch.Tensor:
    """Return by how much a distance in an input grows at most on the way back to its original image.

    Args:
        matrices: Matrices (B, 2, 3) from pixels of the originals to pixels of the inputs.

    Returns:
        Factors (B,): one over the smaller singular value of the linear part, by operations that every exporter knows.
    """
    a, b, c, d = matrices[:, :, :2].flatten(1).unbind(1)
    half, product = (a * a + b * b + c * c + d * d) / 2, a * d - b * c
    largest = half + (half.square() - product.square()).clamp(min=0).sqrt()  # the larger singular value, squared
    return largest.sqrt() / product.abs()


def from_inputs(
    xy: torch.Tensor, covariance: torch.Tensor | None, matrices: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Map points and covariances from inputs back to their original images, by operations that every exporter knows.

    Args:
        xy: Points (B, K, 2) in pixels of the inputs.
        covariance: Covariances (B, K, 2, 2) in squared pixels of the inputs, or None.
        matrices: Matrices (B, 2, 3) from pixels of the originals to pixels of the inputs.

    Returns:
        Points and covariances in pixels of the originals.
    """
    (a, b, x), (c, d, y) = (row.unbind(-1) for row in matrices.unbind(1))
    inverse = (torch.stack([d, -b, -c, a], -1) / (a * d - b * c)[:, None]).unflatten(-1, (2, 2))[:, None]
    points = (inverse @ (xy - torch.stack([x, y], -1)[:, None])[..., None]).squeeze(-1)
    return points, None if covariance is None else inverse @ covariance @ inverse.mT
