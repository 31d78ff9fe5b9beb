"""Which images are among those of other data: the same file, a copy of it, or, without files, the same pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np

from kpnet.data.base import KeypointDataset
from kpnet.data.images import read_image


def pixel_digest(image: np.ndarray) -> bytes:
    """Return what tells the pixels of an image from those of others; grey as one channel and as three is the same.

    Args:
        image: Uint8 (H, W) or (H, W, C).

    Returns:
        A digest of 16 bytes.
    """
    if image.ndim == 3 and (image == image[..., :1]).all():
        image = image[..., 0]
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()


def file_digest(path: Path) -> bytes | None:
    """Return what tells the content of a file from that of others; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
    except OSError:
        return None


class KnownImages:
    """The images of labelled data, with which others are compared.

    An image in a file is known by its path and its content; pixels are compared where one of two images has no file of
    its own, as those of a CSV and the frames of a video. Two files of the same pixels and other bytes are two images:
    to decode ten thousand files would take from a minute (640x480) to many (1920x1080).

    Args:
        datasets: The labelled data.
    """

    def __init__(self, datasets: Iterable[KeypointDataset]) -> None:
        self._arrays: set[bytes] = set()
        self._files: dict[Path, tuple[KeypointDataset, int]] = {}
        for dataset in datasets:
            for index in range(len(dataset)):
                path = dataset.image_file(index)
                if path is None:
                    self._arrays.add(pixel_digest(dataset.read(index)[0]))
                else:
                    self._files.setdefault(path.resolve(), (dataset, index))

    @cached_property
    def _contents(self) -> set[bytes]:
        return {digest for path in self._files if (digest := file_digest(path)) is not None}

    @cached_property
    def _pixels(self) -> set[bytes]:
        """The pixels of all, for images that have no file."""
        return self._arrays | {pixel_digest(dataset.read(index)[0]) for dataset, index in self._files.values()}

    def has_file(self, path: Path, bits: int = 16) -> bool:
        """Return whether an image file is one of the images, or has its bytes, or the pixels of one without a file.

        Args:
            path: The file.
            bits: Bits, from 8 to 16, that its values fill if it has 16.

        Returns:
            Whether it is.

        Raises:
            KpnetError: The pixels are needed, and the image cannot be read.
        """
        if path.resolve() in self._files or (self._files and file_digest(path) in self._contents):
            return True
        return bool(self._arrays) and pixel_digest(read_image(path, bits=bits)) in self._arrays

    def has_digest(self, digest: bytes) -> bool:
        """Return whether one of the images has the pixels of a digest.

        Args:
            digest: What `pixel_digest` gave for an image without a file of its own.

        Returns:
            Whether one has.
        """
        return digest in self._pixels
