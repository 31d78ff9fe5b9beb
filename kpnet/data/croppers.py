"""How a dataset is cropped: what `Cropper` needs to know of all its samples."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np

from kpnet.data.base import KeypointDataset
from kpnet.data.cropping import Cropper, instance_box

_SAMPLES = 1000  # of which the median side is taken
_log = logging.getLogger("kpnet")


def median_side(dataset: KeypointDataset) -> float:
    """Return the median of the longer sides of a dataset's instances, for `instance_box`.

    Args:
        dataset: The dataset, of which evenly spaced samples are looked at.

    Returns:
        The side in pixels; an eighth of the first image's longer side where no instance has a box or points that span
        an area.
    """
    sides = []
    for index in np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), _SAMPLES)).round().astype(int)).tolist():
        box = instance_box(dataset.box(index), dataset.keypoints_of(index), None)
        if box is not None:
            sides.append(float((box[2:] - box[:2]).max()))
    if sides:
        return float(np.median(sides))
    side = max(dataset.image_shape(0)) / 8
    _log.warning(
        "no instance has a box or points that span one: each is taken to be %.3g px wide and high, an eighth of an "
        "image; boxes in the data say better",
        side,
    )
    return side


def build_cropper(
    dataset: KeypointDataset,
    by: Literal["box", "points", "instance"] | None,
    box_scale: float,
    shift: float = 0.0,
    scale: float = 0.0,
) -> Cropper | None:
    """Return the cropper of a dataset's samples, or None for whole images. The arguments are those of `Cropper`."""
    if by is None:
        return None
    return Cropper(by, box_scale, shift, scale, median_side(dataset) if by == "instance" else None)
