"""Some samples of a dataset, such as a fold of a cross-validation."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kpnet.config.schema import Fold
from kpnet.core.errors import KpnetError
from kpnet.data.base import KeypointDataset, Transform


class Subset(KeypointDataset):
    """Some of the samples of a dataset.

    Args:
        dataset: The dataset.
        indices: Indices of the samples, int (N,).
    """

    def __init__(self, dataset: KeypointDataset, indices: np.ndarray) -> None:
        super().__init__(image_size=dataset.image_size, in_channels=dataset.in_channels, seed=dataset.seed)
        self.dataset, self.indices = dataset, indices
        self.skeleton, self.cropper = dataset.skeleton, dataset.cropper

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.dataset.read(int(self.indices[index]))

    def point_weights(self, index: int) -> np.ndarray:
        return self.dataset.point_weights(int(self.indices[index]))

    def labels(self) -> np.ndarray:
        return self.dataset.labels()[self.indices]

    def transform_of(self, index: int) -> Transform | None:
        return self.dataset.transform_of(int(self.indices[index]))

    def image_name(self, index: int) -> str:
        return self.dataset.image_name(int(self.indices[index]))

    def image_file(self, index: int) -> Path | None:
        return self.dataset.image_file(int(self.indices[index]))

    def image_key(self, index: int) -> str:
        return self.dataset.image_key(int(self.indices[index]))

    def instance(self, index: int) -> int:
        return self.dataset.instance(int(self.indices[index]))

    def box(self, index: int) -> np.ndarray | None:
        return self.dataset.box(int(self.indices[index]))

    def visibility(self, index: int) -> np.ndarray:
        return self.dataset.visibility(int(self.indices[index]))


def split_fold(dataset: KeypointDataset, fold: Fold) -> tuple[np.ndarray, np.ndarray]:
    """Split a dataset for cross-validation. The split does not depend on any seed.

    Args:
        dataset: The dataset. Instances of one image stay together.
        fold: The fold that is held out, and the number of folds.

    Returns:
        Indices of the samples to train on, and of those held out.

    Raises:
        KpnetError: There are more folds than images.
    """
    number: dict[str, int] = {}
    image = [number.setdefault(dataset.image_key(index), len(number)) for index in range(len(dataset))]
    count = len(number)
    if fold.of > count:
        raise KpnetError(f"data.fold: expected at most as many folds as images ({count}), found {fold.of}")
    order = np.random.default_rng(0).permutation(count)
    held = np.isin(image, order[fold.index :: fold.of])
    return np.flatnonzero(~held), np.flatnonzero(held)
