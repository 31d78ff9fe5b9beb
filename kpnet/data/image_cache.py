"""Decoded images in memory that all workers of a loader share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from kpnet.core.errors import KpnetError


class ImageCache:
    """Decoded images, each kept by the process that reads it first, and seen by all.

    An image has its place from the start, and processes that read the same one write the same bytes, so that none waits
    for another. What does not fit is read from its file each time: with shuffled samples, no other choice keeps more.

    Args:
        pixels: Number of pixels (N,) of each image.
        most: Bytes to keep.

    Attributes:
        held: Number of images that fit, the first ones.

    Raises:
        KpnetError: The system has less shared memory.
    """

    def __init__(self, pixels: np.ndarray, most: int) -> None:
        ends = np.concatenate([[0], np.cumsum(3 * pixels.astype(np.int64))])
        self.held = int(np.searchsorted(ends, most, side="right")) - 1
        self._ends = ends[: self.held + 1]
        try:
            self._bytes = torch.empty(self.nbytes, dtype=torch.uint8).share_memory_()
            self._shapes = torch.zeros(
                self.held, dtype=torch.int64
            ).share_memory_()  # height and width; 0: not read yet
        except RuntimeError as error:
            raise KpnetError(
                f"data.cache_gb: the system's shared memory has no room for {self.nbytes / 1e9:.2f} GB of images: "
                "lower it, or enlarge /dev/shm"
            ) from error

    @property
    def nbytes(self) -> int:
        """Bytes of the images that fit."""
        return int(self._ends[-1])

    def get(self, index: int, read: Callable[[], np.ndarray]) -> np.ndarray:
        """Return an image, RGB uint8 (H, W, 3).

        Args:
            index: Its number.
            read: Reads it from its file.

        Returns:
            The image, in memory of the caller's own.
        """
        if index >= self.held:
            return read()
        place = self._bytes[self._ends[index] : self._ends[index + 1]].numpy()
        height, width = divmod(int(self._shapes[index]), 2**32)
        if height:
            return place.reshape(height, width, 3).copy()
        image = read()
        if image.size == len(place):  # otherwise the file has changed since
            place[:] = image.ravel()
            self._shapes[index] = image.shape[0] * 2**32 + image.shape[1]  # in one write, after the bytes
        return image
