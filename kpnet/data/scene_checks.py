"""What in whole images a network that finds instances cannot learn from, or not as it is labelled."""

from __future__ import annotations

import math

import numpy as np

from kpnet.coordinates import letterbox_matrix
from kpnet.core.errors import few
from kpnet.data.base import KeypointDataset
from kpnet.data.contradictions import find_doubles
from kpnet.data.cropping import instance_box
from kpnet.data.wrappers.scenes import Scenes

_MOST = 5000  # images that are looked at
_TOLERANCE = 1.05  # of an image's sides


def describe_scenes(scenes: Scenes, stride: int) -> list[str]:
    """Find instances that are too small, larger than their image, a single point, or labelled twice.

    Args:
        scenes: The whole images. Their pixels are read where nothing else gives their size.
        stride: Pixels of the letterboxed image in a cell of the centre map.

    Returns:
        One line for each kind, with how many there are, an example, and what to do.
    """
    chosen = np.unique(np.linspace(0, len(scenes) - 1, min(len(scenes), _MOST)).round().astype(int)).tolist()
    small: dict[str, float] = {}
    large: list[str] = []
    total = 0
    for index in chosen:
        truth = scenes.truth(index)
        total += len(truth.boxes)
        if not len(truth.boxes):
            continue
        height, width = scenes.image_shape(index)
        scale = letterbox_matrix((height, width), scenes.size)[0][[0, 1], [0, 1]]
        sides = truth.boxes[:, 2:] - truth.boxes[:, :2]
        for k, (own, there) in enumerate(zip(sides, sides * scale, strict=True)):
            where = f"{truth.image} #{k} of {own[0]:.3g}x{own[1]:.3g} px"
            if there.max() < stride:
                small[where] = float(there.max())
            if (own > _TOLERANCE * np.array((width, height))).any():
                large.append(f"{where} on {width}x{height}")
    lines = [_describe_small(small, total, scenes, stride)] if small else []
    if large:
        lines.append(
            f"{len(large)} of {total} instances are larger than their image, such as {large[0]}: are their points and "
            "boxes in the pixels of this image?"
        )
    return lines + _describe_points(scenes) + find_doubles(scenes.dataset, _every_point(scenes.dataset))


def _every_point(dataset: KeypointDataset) -> np.ndarray:
    return np.stack([dataset.keypoints_of(index) for index in range(len(dataset))])


def _describe_small(small: dict[str, float], total: int, scenes: Scenes, stride: int) -> str:
    where, least = min(small.items(), key=lambda item: item[1])
    height, width = scenes.size
    factor = stride / least
    larger = [32 * math.ceil(side * factor / 32) for side in (height, width)]
    finer = 2 ** math.floor(math.log2(least)) if least >= 1 else 0
    advice = f"stride {finer} or input_size {larger}" if finer else f"input_size {larger}"
    return (
        f"{len(small)} of {total} instances are smaller than a cell of the centre map, {stride} px of the "
        f"{width}x{height} px to which images are resized, such as {where}, which are {least:.2g} px there: with "
        f"{advice} all would fill one"
    )


def _describe_points(scenes: Scenes) -> list[str]:
    """Return a line on the instances whose box is only guessed."""
    dataset = scenes.dataset
    bare = [
        f"{dataset.image_name(index)} #{dataset.instance(index)}"
        for index in np.flatnonzero(dataset.labels().any(-1)).tolist()
        if instance_box(dataset.box(index), dataset.keypoints_of(index), None) is None
    ]
    if not bare:
        return []
    return [
        f"{len(bare)} instances have no box, and points that span no area: {few(bare)}; a square of "
        f"{scenes.fallback_side:.3g} px about the points stands for it, the median of the others' sides"
    ]
