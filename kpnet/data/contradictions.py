"""Find what in a dataset contradicts itself: points and boxes, an instance with two labels, images that EXIF turns."""

from __future__ import annotations

import numpy as np

from kpnet.core.errors import KpnetError, few
from kpnet.data.base import KeypointDataset
from kpnet.data.cropping import instance_box
from kpnet.data.formats.image_files import ImageFileDataset
from kpnet.data.images import is_turned, read_image_size

_SIGMA, _SAME = 0.05, 0.95  # object keypoint similarity with this sigma above which two instances are one
_MARGIN = 0.05  # of a box's sides: annotators draw boxes a little too tight


def find_contradictions(dataset: KeypointDataset, xy: np.ndarray) -> list[str]:
    """Compare points with their boxes and with the way up of their images.

    Args:
        dataset: The dataset.
        xy: Its keypoints (N, K, 2) in pixels, NaN where absent.

    Returns:
        One line for each kind of contradiction, with what to look at or the option that reads the data right.
    """
    found = _points_outside_boxes(dataset, xy) + find_doubles(dataset, xy)
    return found + (_turned_images(dataset, xy) if isinstance(dataset, ImageFileDataset) else [])


def find_doubles(dataset: KeypointDataset, every: np.ndarray) -> list[str]:
    """Find instances of one image that are probably one, labelled twice: whose points all but coincide.

    Instances with the very same points are not counted: opening the file reports them.

    Args:
        dataset: The dataset.
        every: Its keypoints (N, K, 2) in pixels, NaN where absent.

    Returns:
        One line, or none.
    """
    images: dict[str, list[int]] = {}
    for index in np.flatnonzero(np.isfinite(every).all(-1).any(-1)).tolist():
        images.setdefault(dataset.image_key(index), []).append(index)
    found = []
    for indices in images.values():
        if len(indices) < 2:
            continue
        xy = every[indices]
        sides = [_side(dataset, index, points) for index, points in zip(indices, xy, strict=True)]
        distance = np.linalg.norm(xy[:, None] - xy[None], axis=-1)
        similar = np.exp(-((distance / np.array(sides)[:, None, None]) ** 2) / (8 * _SIGMA**2))
        both = np.isfinite(similar)
        oks = np.where(both, similar, 0).sum(-1) / np.maximum(both.sum(-1), 1)
        same = (np.where(both, distance, 0) == 0).all(-1)
        for a, b in np.argwhere(np.triu((oks > _SAME) & ~same, 1)).tolist():
            numbers = [dataset.instance(indices[each]) for each in (a, b)]
            found.append(f"{dataset.image_name(indices[a])} #{numbers[0]} and #{numbers[1]}")
    if not found:
        return []
    return [f"{len(found)} pairs of instances have nearly the same points: {few(found)}; is one labelled twice?"]


def _side(dataset: KeypointDataset, index: int, points: np.ndarray) -> float:
    """Return the square root of the area of an instance, at least a pixel."""
    box = instance_box(dataset.box(index), points, None)
    return 1.0 if box is None else max(1.0, float(np.sqrt((box[2:] - box[:2]).prod())))


def _points_outside_boxes(dataset: KeypointDataset, xy: np.ndarray) -> list[str]:
    odd, boxed = [], 0
    for index in range(len(dataset)):
        box, points = dataset.box(index), xy[index][np.isfinite(xy[index]).all(-1)]
        if box is None or not len(points):
            continue
        boxed += 1
        margin = _MARGIN * (box[2:] - box[:2]) + 0.5
        inside = ((points >= box[:2] - margin) & (points <= box[2:] + margin)).all(-1)
        if inside.mean() < 0.5:
            odd.append(f"{dataset.image_name(index)} #{dataset.instance(index)}")
    if not odd:
        return []
    return [
        f"{len(odd)} of {boxed} samples have most of their points outside their box: {few(odd)}; are the boxes as the "
        "format has them, and each on its own instance?"
    ]


def _turned_images(dataset: ImageFileDataset, xy: np.ndarray) -> list[str]:
    """Say how images are read that EXIF turns, and whether their labels fit the other way only."""
    first: dict[str, list[int]] = {}
    for index in range(len(dataset)):
        first.setdefault(dataset.image_name(index), []).append(index)
    turned = {name: indices for name, indices in first.items() if is_turned(dataset.path(indices[0]))}
    if not turned:
        return []
    beyond, total, shown = np.zeros(2, int), 0, []
    for indices in turned.values():
        path = dataset.path(indices[0])
        try:
            now = dataset.image(indices[0]).shape[:2]
            sizes = [read_image_size(path, exif=exif) for exif in (False, True)]
        except KpnetError:
            continue
        as_shown = bool(dataset.exif) if dataset.exif is not None or sizes[0] == sizes[1] else now == sizes[1]
        shown.append(as_shown)
        for index in indices:
            total += 1
            edges = [xy[index][np.isfinite(xy[index]).all(-1)], *_corners(dataset.box(index))]
            corners = np.concatenate(edges)
            for k, (height, width) in enumerate(sizes if not as_shown else sizes[::-1]):
                outside = (corners < -1.5).any(-1) | (corners > (width + 0.5, height + 0.5)).any(-1)
                beyond[k] += outside.any()
    if not shown:
        return []
    ways = ("shown", "stored") if np.mean(shown) > 0.5 else ("stored", "shown")
    said = f"{len(turned)} images are turned by EXIF, such as {next(iter(turned))}; they are read as {ways[0]}"
    option = f"exif: {str(ways[1] == 'shown').lower()}"
    if beyond[0] > beyond[1]:
        return [
            f"{said}, and {beyond[0]} of their {total} samples have points or boxes outside; as {ways[1]}, "
            f"{beyond[1]}: set the format's {option}"
        ]
    return [f"{said}; if their points were placed on the images as {ways[1]}, set the format's {option}"]


def _corners(box: np.ndarray | None) -> list[np.ndarray]:
    return [] if box is None else [box.reshape(2, 2)]
