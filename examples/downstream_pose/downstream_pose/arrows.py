"""A data format of our own: drawn arrows, whose tail and tip are to be found."""

from __future__ import annotations

from typing import Any, Self

import cv2
import numpy as np

from kpnet.config.schema import DataConfig
from kpnet.core.skeleton import Skeleton
from kpnet.data import DATASETS, KeypointDataset


@DATASETS.register("arrows")
class Arrows(KeypointDataset):
    """Drawn arrows on grey images, each with its tail and its tip.

    An arrow is drawn when it is needed, from the seed and its index alone.

    Args:
        count: Number of arrows.
        side: Height and width of the images in pixels.
        seed: Seed of the arrows, and of the augmentation.
        **common: `image_size`, `in_channels` and `transform` of `KeypointDataset`.
    """

    skeleton = Skeleton(("tail", "tip"), edges=(("tail", "tip"),))

    def __init__(self, count: int, *, side: int = 48, seed: int = 0, **common: Any) -> None:
        super().__init__(seed=seed, **common)
        self.count, self.side = count, side

    @classmethod
    def open(cls, data: DataConfig, source: str | int, skeleton: Skeleton | None, **options: Any) -> Self:
        return cls(int(source), **options)

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        draws = np.random.default_rng((self.seed, index))
        middle, angle, length = draws.uniform(0.4, 0.6, 2), draws.uniform(0, 2 * np.pi), draws.uniform(0.3, 0.5)
        along = length / 2 * np.array([np.cos(angle), np.sin(angle)])
        points = np.round(self.side * np.stack([middle - along, middle + along]))
        image = np.full((self.side, self.side), 20, np.uint8)
        tail, tip = points.astype(int).tolist()
        cv2.arrowedLine(image, tail, tip, 230, 2, cv2.LINE_AA, tipLength=0.4)
        return image, points
