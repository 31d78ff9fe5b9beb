"""Some samples of a dataset, such as a fold of a cross-validation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from kpnet.config.schema import Fold
from kpnet.core.errors import KpnetError
from kpnet.data.base import KeypointDataset, Transform
from kpnet.data.surroundings import Surroundings


class Subset(KeypointDataset):
    """Some of the samples of a dataset.

    Args:
        dataset: The dataset.
        indices: Indices of the samples, int (N,).
        side: The fold of the images without samples, and whether those that it holds out are wanted. None: all are.
    """

    def __init__(self, dataset: KeypointDataset, indices: np.ndarray, side: tuple[Fold, bool] | None = None) -> None:
        super().__init__(image_size=dataset.image_size, in_channels=dataset.in_channels, seed=dataset.seed)
        self.dataset, self.indices, self.side = dataset, indices, side
        self.skeleton, self.cropper, self.missing = dataset.skeleton, dataset.cropper, dataset.missing

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.dataset.read(int(self.indices[index]))

    def keypoints_of(self, index: int) -> np.ndarray:
        return self.dataset.keypoints_of(int(self.indices[index]))

    def image_shape(self, index: int) -> tuple[int, int]:
        return self.dataset.image_shape(int(self.indices[index]))

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

    def presence(self, index: int) -> np.ndarray:
        return self.dataset.presence(int(self.indices[index]))

    def area(self, index: int) -> float | None:
        return self.dataset.area(int(self.indices[index]))

    def surroundings(self) -> list[Surroundings]:
        """Return those of the images that belong here. An image of which only some samples do is partly labelled."""
        inside = np.isin(np.arange(len(self.dataset)), self.indices)
        names = [(self.dataset.image_key(i), self.dataset.image_name(i)) for i in range(len(self.dataset))]
        used = {key for (key, _), kept in zip(names, inside.tolist(), strict=True) if kept}
        cut = {key: name for (key, name), kept in zip(names, inside.tolist(), strict=True) if not kept and key in used}
        every = self.dataset.surroundings()
        bare = [each for each in every if each.read is not None]
        if self.side is not None:
            fold, held = self.side
            order = np.random.default_rng(0).permutation(len(bare))
            here = np.isin(np.arange(len(bare)), order[fold.index :: fold.of]) == held
            bare = [each for each, chosen in zip(bare, here.tolist(), strict=True) if chosen]
        known = [replace(each, partial=each.partial or each.key in cut) for each in every if each.key in used]
        cut = {key: name for key, name in cut.items() if key not in {each.key for each in known}}
        return [
            *known,
            *(Surroundings(key, name, partial=True) for key, name in cut.items()),
            *(each for each in bare if each.key not in used),
        ]


def take_fold(dataset: KeypointDataset, fold: Fold, *, held: bool) -> Subset:
    """Return one side of a split for cross-validation, with its part of the images that have no samples.

    Args:
        dataset: The dataset.
        fold: The fold that is held out, and the number of folds.
        held: Whether to return the samples that are held out, or those to train on.

    Returns:
        The samples.

    Raises:
        KpnetError: There are more folds than images.
    """
    return Subset(dataset, split_fold(dataset, fold)[held], (fold, held))


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
