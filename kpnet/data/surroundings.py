"""What a data set knows of an image beyond its samples: for networks that look at whole images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


def no_boxes() -> np.ndarray:
    """Return boxes (0, 4)."""
    return np.zeros((0, 4))


@dataclass(frozen=True)
class Surroundings:
    """What a dataset knows of an image beyond its samples.

    Attributes:
        key: What tells the image from all others, as `KeypointDataset.image_key` gives it.
        name: The image's name, as `KeypointDataset.image_name` gives it.
        read: Reads an image that has no sample, uint8 (H, W) or (H, W, C). None: samples are on it.
        ignored: Edges x0, y0, x1, y1 of regions that are neither right nor wrong, such as crowds; float64 (I, 4) in
            pixels.
        partial: The image has instances without labels, so that its background counts for nothing.
        file: File of an image that has no sample; None where it has none of its own.
        transform: Augmentation of the image, as `KeypointDataset.transform_of` gives it.
    """

    key: str
    name: str
    read: Callable[[], np.ndarray] | None = None
    ignored: np.ndarray = field(default_factory=no_boxes)
    partial: bool = False
    file: Path | None = None
    transform: Callable[..., Any] | None = None


@dataclass
class Background:
    """What a file of labels says of images beyond its instances, by the names that it has for the images.

    Attributes:
        images: Height and width of images without an instance, 0 where the file states none.
        ignored: Names of images, and the edges x0, y0, x1, y1 of a region of each that is neither right nor wrong.
        partial: Names of images with instances that are not labelled, or not so that their place is known.
    """

    images: dict[str, tuple[int, int]] = field(default_factory=dict)
    ignored: list[tuple[str, np.ndarray]] = field(default_factory=list)
    partial: set[str] = field(default_factory=set)
