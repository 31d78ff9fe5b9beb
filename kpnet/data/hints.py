"""Find signs that labels follow another convention than the one they were read with, and name the option that helps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kpnet.core.errors import few
from kpnet.data.base import DATASETS, KeypointDataset

_SHOWN = 3
_LEAST_SIDE = 8  # pixels; coordinates from 0 to 1 are pixels in smaller images
_OFTEN = 0.05  # share of points outside their image from which x and y may be swapped


def find_hints(dataset: KeypointDataset, points: np.ndarray, sizes: np.ndarray) -> list[str]:
    """Find what the coordinates of a dataset may mean instead.

    Args:
        dataset: The dataset.
        points: Its keypoints (N, K, 2) in pixels, NaN where missing.
        sizes: Height and width (N, 2) of each sample's image, 0 where it is unknown.

    Returns:
        One line for each sign, with the option of the data format to try.
    """
    known = sizes.all(-1)
    points, sizes = points[known].copy(), sizes[known]
    base = int(getattr(dataset, "index_base", 0))
    hints = _missing_values(dataset, points, base)
    labelled = np.isfinite(points).all(-1)
    if not labelled.any():
        return hints
    size = np.broadcast_to(sizes[:, None], points.shape)[labelled]
    return hints + _other_convention(dataset, points[labelled], size, base)


def _missing_values(dataset: KeypointDataset, points: np.ndarray, base: int) -> list[str]:
    """Find points of which both coordinates are 0 or the same negative number, and make them missing in `points`."""
    same = (points[..., 0] == points[..., 1]) & (points[..., 0] + base <= 0)
    values, counts = np.unique(points[same][:, 0] + base, return_counts=True)
    points[same] = np.nan
    if not len(values):
        return []
    order = np.argsort(-counts, kind="stable")[:_SHOWN]
    found = ", ".join(f"{counts[k]} at {values[k]:g}, {values[k]:g}" for k in order)
    chosen = [f"{values[k]:g}" for k in order]
    option = chosen[0] if len(chosen) == 1 else f"[{', '.join(chosen)}]"
    return [f"points that look like missing ones: {found}; if they are, {_option(dataset, f'missing: {option}')}"]


def _other_convention(dataset: KeypointDataset, xy: np.ndarray, size: np.ndarray, base: int) -> list[str]:
    """Find points (M, 2) that fit their images of `size` (M, 2) better after a change of convention."""
    raw = xy + base
    if raw.min() >= 0 and raw.max() <= 1 and size.min() >= _LEAST_SIDE and len(xy) > 1 and raw.max() > raw.min():
        option = _option(dataset, "normalized: true")
        return [f"all coordinates lie between 0 and 1; if they are parts of the width and height, {option}"]
    outside = _outside(xy, size)
    if not outside.any():
        return []
    if outside.mean() >= _OFTEN and not _outside(xy[:, ::-1], size).any():
        option = _option(dataset, "swap_xy: true")
        return [f"{outside.sum()} points lie outside their image, and none does with x and y swapped; {option}"]
    shift = 1 if base else -1
    if not _outside(xy + shift, size).any():
        option = _option(dataset, f"index_base: {1 - base}")
        what = f"{outside.sum()} points lie a pixel outside their image, and none does if it begins at {1 - base}"
        return [f"{what}; {option}"]
    return []


def _outside(xy: np.ndarray, size: np.ndarray) -> np.ndarray:
    return np.asarray(((xy < -0.5) | (xy > size[:, ::-1] - 0.5)).any(-1))


def _option(dataset: KeypointDataset, option: str) -> str:
    name = next((name for name, cls in DATASETS.items() if cls is type(dataset)), type(dataset).__name__)
    return f"read them with data.format: {{name: {name}, {option}}}"


def describe_dark_images(
    dataset: KeypointDataset, constant: Sequence[str], dark: Sequence[str], deep: Mapping[str, int]
) -> list[str]:
    """Describe images that are probably not as they should be.

    Args:
        dataset: The dataset.
        constant: Names of images of a single value.
        dark: Names of images that are nearly black.
        deep: Names of images of 16 bits that are nearly black, and how many bits their values fill.

    Returns:
        One line for each kind that there is.
    """
    lines = []
    if deep:
        bits = max(8, *deep.values())
        what = f"{len(deep)} images of 16 bits are nearly black, and their values fill {bits} bits: {few(deep)}"
        lines.append(f"{what}; if all such images do, {_option(dataset, f'bits: {bits}')}")
    if constant:
        lines.append(f"{len(constant)} images have a single value everywhere: {few(constant)}")
    if dark:
        lines.append(f"{len(dark)} images are nearly black: {few(dark)}")
    return lines
