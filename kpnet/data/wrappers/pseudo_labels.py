"""Labelled images, and beside them images whose points a model has found."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np

from kpnet.data.base import KeypointDataset, Transform


class WithPseudoLabels(KeypointDataset):
    """The samples of a dataset, and in each epoch as many others whose points a model has found.

    The others take turns: each of them comes once before any comes again, in an order that follows from the seed. Until
    an epoch is set, the first ones come.

    Args:
        labelled: The labelled samples.
        images: The other images; their own keypoints are not looked at.
        keypoints: What was found in them, float64 (N, K, 2), in pixels of the image that `images.read` gives. NaN:
            absent.
        confidence: Weights of the found points in the loss, float64 (N, K).
        per_label: Others in an epoch, for each labelled sample; at most all of them.
        transform: Augmentation of the others.
    """

    def __init__(
        self,
        labelled: KeypointDataset,
        images: KeypointDataset,
        keypoints: np.ndarray,
        confidence: np.ndarray,
        *,
        per_label: float = 1.0,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(
            image_size=labelled.image_size, in_channels=labelled.in_channels, transform=transform, seed=labelled.seed
        )
        self.skeleton, self.labelled, self.images = labelled.skeleton, labelled, images
        self.missing = labelled.missing
        self.keypoints, self.confidence = keypoints, confidence
        self.others = min(len(images), math.ceil(per_label * len(labelled)))

    def __len__(self) -> int:
        return len(self.labelled) + self.others

    def other(self, index: int) -> int | None:
        """Return which of the other images a sample of this epoch is.

        Args:
            index: Index of the sample.

        Returns:
            Its index in `images`; None for a labelled sample.
        """
        place = index - len(self.labelled)
        if place < 0:
            return None
        turn, place = divmod(max(int(self._epoch), 0) * self.others + place, len(self.images))
        return int(_order(self.seed, turn, len(self.images))[place])

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        other = self.other(index)
        if other is None:
            return self.labelled.read(index)
        return self.images.read(other)[0], self.keypoints[other].copy()

    def point_weights(self, index: int) -> np.ndarray:
        """Return the confidence of found points, and the weights of labelled ones."""
        other = self.other(index)
        return self.labelled.point_weights(index) if other is None else self.confidence[other]

    def visibility(self, index: int) -> np.ndarray:
        return self.labelled.visibility(index) if self.other(index) is None else super().visibility(index)

    def presence(self, index: int) -> np.ndarray:
        """Return what the labels say; of points that a model found, nothing is known."""
        return self.labelled.presence(index) if self.other(index) is None else np.full(len(self.skeleton), np.nan)

    def labels(self) -> np.ndarray:
        every = [other for index in range(len(self)) if (other := self.other(index)) is not None]
        return np.concatenate([self.labelled.labels(), np.isfinite(self.keypoints[every]).all(-1)])

    def transform_of(self, index: int) -> Transform | None:
        return self.labelled.transform_of(index) if index < len(self.labelled) else self.transform

    def image_name(self, index: int) -> str:
        other = self.other(index)
        return self.labelled.image_name(index) if other is None else self.images.image_name(other)

    def image_file(self, index: int) -> Path | None:
        other = self.other(index)
        return self.labelled.image_file(index) if other is None else self.images.image_file(other)

    def image_key(self, index: int) -> str:
        other = self.other(index)
        return self.labelled.image_key(index) if other is None else self.images.image_key(other)


@lru_cache(maxsize=4)
def _order(seed: int, turn: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, turn)).permutation(count)
