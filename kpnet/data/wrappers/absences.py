"""The samples of a dataset with points covered or moved out of the image."""

from __future__ import annotations

import numpy as np

from kpnet import coordinates
from kpnet.data.base import KeypointDataset, Transform
from kpnet.data.wrappers.subset import Subset

COVERED = 0.21  # side of the square, as a fraction of the image's shorter side: 20 px of 96
MOVED = (0.25, 0.45)  # bounds of the shift, as fractions of the image's side


class Absences(Subset):
    """Each sample of a dataset with a square of noise over one of its points, or moved so that points leave the image.

    What is done to a sample depends on its index alone. Half of the samples are covered, and half are moved to the
    left, right, top or bottom by a quarter to nearly half of the side; the image is black where nothing moved to, as it
    is beside an image that was letterboxed or cropped. The dataset's own augmentation is left out.

    Args:
        dataset: The samples.
    """

    def __init__(self, dataset: KeypointDataset) -> None:
        super().__init__(dataset, np.arange(len(dataset)))
        self.missing = dataset.missing or "unknown"
        self.seed = 0
        self.set_epoch(0)

    def transform_of(self, index: int) -> Transform | None:
        return _Absence()


class _Absence:
    """Covers or moves points, as an augmentation."""

    def __call__(self, image: np.ndarray, points: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        return self.with_covered(image, points, seed)[:2]

    def with_covered(
        self, image: np.ndarray, points: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng, size = np.random.default_rng(seed), (image.shape[0], image.shape[1])
        inside = np.flatnonzero(coordinates.inside(points[:, :2], size))
        covered = np.zeros(len(points), bool)
        if rng.random() < 0.5:
            if not len(inside):
                return image, points, covered
            side = max(1, round(COVERED * min(size)))
            left, top = (points[rng.choice(inside), :2] + 0.5 - side / 2).round().astype(int)
            image = image.copy()
            hole = image[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
            hole[:] = rng.integers(0, 256, hole.shape)
            square = np.array([left, top, left + side, top + side]) - 0.5  # a pixel's index is its centre
            return image, points, np.asarray(coordinates.inside_box(points[:, :2], square))
        axis, sign = rng.integers(2), rng.choice([-1, 1])
        pixels = sign * round(rng.uniform(*MOVED) * size[axis])
        moved = np.roll(image, pixels, axis)
        empty = slice(0, pixels) if sign > 0 else slice(pixels, None)
        moved[(slice(None),) * axis + (empty,)] = 0
        points = points.copy()
        points[:, 1 - axis] += pixels  # the first axis of an image is y
        return moved, points, covered
