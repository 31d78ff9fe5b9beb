"""Express what albumentations did to an image as a 3x3 matrix from pixels to pixels (centres at integers)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from kpnet import coordinates
from kpnet.coordinates import Size

Matrix = np.ndarray  # 3x3, maps pixels before a transform to pixels after it
# (transform, parameters that it drew, size before, size after) to the matrix
ToMatrix = Callable[[Any, dict[str, Any], Size, Size], Matrix]


def _shift(x: float, y: float) -> Matrix:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def resize(before: Size, after: Size) -> Matrix:
    """Return the 3x3 matrix of a resize between two sizes (H, W)."""
    matrix = np.eye(3)
    matrix[:2] = coordinates.resize_matrix(before, after)
    return matrix


# x' = a x + b y, y' = c x + d y, each coordinate counted from its other end where the sign is negative
SYMMETRIES = {
    "e": [[1, 0], [0, 1]],
    "h": [[-1, 0], [0, 1]],
    "v": [[1, 0], [0, -1]],
    "t": [[0, 1], [1, 0]],
    "hvt": [[0, -1], [-1, 0]],
    "r90": [[0, 1], [-1, 0]],
    "r180": [[-1, 0], [0, -1]],
    "r270": [[0, -1], [1, 0]],
}


@lru_cache(64)
def symmetry_matrix(element: str, size: Size) -> Matrix:
    """Return the 3x3 matrix of a mirror or turn of an image onto itself, a key of `SYMMETRIES`."""
    matrix = np.eye(3)
    matrix[:2, :2] = SYMMETRIES[element]
    matrix[:2, 2] = -np.minimum(matrix[:2, :2], 0) @ (size[1] - 1, size[0] - 1)
    matrix.flags.writeable = False  # all callers share it
    return matrix


def _affine(transform: Any, drawn: dict[str, Any], before: Size, after: Size) -> Matrix:
    matrix = np.eye(3)
    matrix[:2] = drawn["matrix"][:2]
    if getattr(transform, "crop_border", False):
        return _shift(-drawn["x_min"], -drawn["y_min"]) @ matrix
    return matrix


def _perspective(transform: Any, drawn: dict[str, Any], before: Size, after: Size) -> Matrix:
    # keep_size scales inside the warp, about pixel (0, 0): no half pixel here, unlike in a resize.
    scale = np.diag([after[1] / drawn["max_width"], after[0] / drawn["max_height"], 1.0])
    return scale @ drawn["matrix"]


def _pad(transform: Any, drawn: dict[str, Any], before: Size, after: Size) -> Matrix:
    return _shift(drawn["pad_left"], drawn["pad_top"])


def _crop(transform: Any, drawn: dict[str, Any], before: Size, after: Size) -> Matrix:
    pad = drawn.get("pad_params") or {"pad_left": 0, "pad_top": 0}
    x0, y0, x1, y1 = drawn["crop_coords"]
    return resize((y1 - y0, x1 - x0), after) @ _shift(pad["pad_left"] - x0, pad["pad_top"] - y0)


def _crop_and_pad(transform: Any, drawn: dict[str, Any], before: Size, after: Size) -> Matrix:
    x0, y0, *_ = drawn["crop_params"] or (0, 0)
    top, _, left, _ = drawn["pad_params"] or (0, 0, 0, 0)
    return resize(drawn["result_shape"], after) @ _shift(left - x0, top - y0)


GEOMETRIC: dict[str, ToMatrix] = {
    "HorizontalFlip": lambda t, drawn, before, after: symmetry_matrix("h", before),
    "VerticalFlip": lambda t, drawn, before, after: symmetry_matrix("v", before),
    "Transpose": lambda t, drawn, before, after: symmetry_matrix("t", before),
    "D4": lambda t, drawn, before, after: symmetry_matrix(drawn["group_element"], before),
    "SquareSymmetry": lambda t, drawn, before, after: symmetry_matrix(drawn["group_element"], before),
    "RandomRotate90": lambda t, drawn, before, after: symmetry_matrix(
        ("e", "r90", "r180", "r270")[drawn["factor"]], before
    ),
    **dict.fromkeys(("Affine", "ShiftScaleRotate", "Rotate", "SafeRotate"), _affine),
    "Perspective": _perspective,
    **dict.fromkeys(("Pad", "PadIfNeeded"), _pad),
    **dict.fromkeys(("Crop", "CenterCrop", "RandomCrop", "RandomCropFromBorders"), _crop),
    **dict.fromkeys(("RandomResizedCrop", "RandomSizedCrop"), _crop),
    "CropAndPad": _crop_and_pad,
    **dict.fromkeys(
        ("Resize", "RandomScale", "LongestMaxSize", "SmallestMaxSize"),
        lambda t, drawn, before, after: resize(before, after),
    ),
}
"""The geometric transforms that a config may name. Each is tested against the image itself, to 0.1 px."""


def mirrors(matrix: Matrix) -> bool:
    """Return whether the determinant is negative, ten times as fast as with `np.linalg.det`."""
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
    return bool(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g) < 0)


def project(xy: np.ndarray, matrix: Matrix) -> np.ndarray:
    """Map points (..., 2) by a 3x3 matrix, to NaN where they lie behind a perspective's horizon."""
    moved = coordinates.transform(xy, matrix[:2])
    if matrix[2, 0] == 0 and matrix[2, 1] == 0:
        return moved / matrix[2, 2]
    depth = xy @ matrix[2, :2] + matrix[2, 2]
    return moved / np.where(depth > 0, depth, np.nan)[..., None]
