"""Unlabelled images in two views: as they are, and augmented."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from kpnet.data.base import KeypointDataset
from kpnet.data.transforms.matrices import mirrors

if TYPE_CHECKING:  # it imports albumentations
    from kpnet.data.transforms.augment import Augment

_UNLABELLED = 2  # sets the draws of an unlabelled image apart from those of a labelled one


class TwoViews(KeypointDataset):
    """Unlabelled images, each as a teacher sees it and as its student does.

    An index beyond the last image begins again: that of image i in turn n is i + n N, with draws of its own. An item is
    a dictionary:

    - `plain`: float32 (C, H, W) in [0, 1], the letterboxed image.
    - `image`: float32 (C, H, W), the same augmented.
    - `motion`: float32 (3, 3), maps pixels of `plain` to pixels of `image` (centres at integers).
    - `mirrored`: bool (), whether left and right swap.
    - `index`: index of the image.

    Without an augmentation there is `plain` and `index` alone.

    Args:
        dataset: The images.
        augment: The augmentation, or None.
    """

    def __init__(self, dataset: KeypointDataset, augment: Augment | None) -> None:
        super().__init__(image_size=dataset.image_size, in_channels=dataset.in_channels, seed=dataset.seed)
        self.dataset, self.augment, self.skeleton = dataset, augment, dataset.skeleton

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.dataset.read(index)

    def in_bytes(self) -> Self:
        copied = super().in_bytes()
        copied.dataset = self.dataset.in_bytes()
        return copied

    def __getitem__(self, index: int) -> dict[str, Any]:
        turn, place = divmod(index, len(self))
        image, _, _ = self.dataset.sample_pixels(place)
        item = {"plain": self._tensor(image), "index": place}
        if self.augment is None:
            return item
        seed = int(np.random.SeedSequence((self.seed, turn, place, _UNLABELLED)).generate_state(1)[0])
        after, matrix = self.augment.apply(image, seed)
        matrix = np.eye(3) if matrix is None else matrix
        return {
            **item,
            "image": self._tensor(after),
            "motion": torch.from_numpy(matrix.astype(np.float32)),
            "mirrored": torch.tensor(mirrors(matrix)),
        }
