"""Samples with the frames before and after them."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch

from kpnet.data.base import KeypointDataset
from kpnet.data.wrappers.subset import Subset


class Windows(Subset):
    """Every sample of a dataset with the frames around it, for heads that see several frames.

    The `image` of an item is (T, C, H, W); everything else belongs to the sample itself. Frames of a window are
    cropped and augmented alike. Beyond an end of the clip its first or last frame is repeated.

    Args:
        dataset: The dataset, whose `clips` say which samples are frames of one clip.
        window: Number of frames before and after the sample.
    """

    def __init__(self, dataset: KeypointDataset, window: tuple[int, int]) -> None:
        super().__init__(dataset, np.arange(len(dataset)))
        self.window = window
        ends = np.flatnonzero(np.diff(dataset.clips())) + 1
        self._starts, self._ends = np.r_[0, ends], np.r_[ends, len(dataset)]

    def clips(self) -> np.ndarray:
        return self.dataset.clips()

    def set_epoch(self, epoch: int) -> None:
        self.dataset.set_epoch(epoch)

    def in_bytes(self) -> Self:
        copied = super().in_bytes()
        copied.dataset = self.dataset.in_bytes()
        return copied

    def frames(self, index: int) -> np.ndarray:
        """Return the indices (T,) of the samples in the window around a sample."""
        clip = np.searchsorted(self._starts, index, "right") - 1
        past, future = self.window
        return np.arange(index - past, index + future + 1).clip(self._starts[clip], self._ends[clip] - 1)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        draws = self.dataset.draws(index)
        items = {int(i): self.dataset.sample(int(i), draws) for i in np.unique(self.frames(index))}
        images = torch.stack([items[int(i)]["image"] for i in self.frames(index)])
        return {**items[index], "image": images}
