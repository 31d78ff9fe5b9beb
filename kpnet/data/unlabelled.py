"""Images without labels as datasets: for pretraining, and to learn from beside labelled ones."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kpnet.config.pretraining import PretrainConfig
from kpnet.config.schema import Config
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import KeypointDataset
from kpnet.data.duplicates import KnownImages, pixel_digest
from kpnet.data.image_sequences import ImageFiles, Images, JoinedImages, VideoFrames, open_images

_log = logging.getLogger("kpnet")


class UnlabelledImages(KeypointDataset):
    """Images as samples without labels: all their keypoints are missing.

    Args:
        images: The images.
        indices: Indices of the images to use. None: all.
        skeleton: The keypoints. None: a left and a right one, so that transforms that mirror the image are allowed.
        **common: Arguments of `KeypointDataset`.
    """

    skeleton = Skeleton.from_names(["left", "right"])

    def __init__(
        self, images: Images, indices: Sequence[int] | None = None, skeleton: Skeleton | None = None, **common: Any
    ) -> None:
        super().__init__(**common)
        self.images = images
        self.indices = range(len(images)) if indices is None else indices
        self.skeleton = self.skeleton if skeleton is None else skeleton

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.images[self.indices[index]].copy(), np.full((len(self.skeleton), 2), np.nan)

    def image_name(self, index: int) -> str:
        place = self.indices[index]
        return self.images.name(place) if isinstance(self.images, JoinedImages) else str(place)

    def source_matrix(self, index: int) -> np.ndarray:
        """Return how an image lies in its source: frames of a video are letterboxed when they are taken.

        Args:
            index: Index of the sample.

        Returns:
            The 2x3 matrix that maps pixels of the image in its source to those of the image that `read` gives.
        """
        place = self.indices[index]
        return self.images.matrix(place) if isinstance(self.images, JoinedImages) else np.eye(2, 3)


def read_unlabelled(config: Config, skeleton: Skeleton, labelled: Sequence[KeypointDataset]) -> UnlabelledImages:
    """Build the dataset of `data.unlabelled`, letterboxed as the labelled images are.

    16-bit image files are read with the `bits` of the labelled images' format, as prediction reads them. Images that
    are among the labelled ones are left out, and their number is logged as a warning.

    Args:
        config: The config.
        skeleton: The keypoints of the samples, all of which are missing.
        labelled: The labelled data, those of the validation included.

    Returns:
        The dataset, without augmentation.

    Raises:
        KpnetError: A source cannot be read or is listed twice, or there is no image besides the labelled ones.
    """
    data, model = config.data, config.model
    known = KnownImages(labelled)
    parts: list[Images] = []
    kept: list[int] = []
    seen: set[Path] = set()
    for entry in data.unlabelled:
        path = Path(data.root) / entry.file
        if path.resolve() in seen:
            raise KpnetError(f"data.unlabelled lists {entry.file} twice, and its images would count twice: remove one")
        seen.add(path.resolve())
        images = open_images(path, model.input_size, entry.frames, bits=data.image_bits())
        start = sum(map(len, parts))
        new = [start + index for index in range(len(images)) if not _is_known(images, index, known)]
        if len(new) < len(images):
            _log.warning(
                "data.unlabelled: %d of the %d images of %s are among the labelled ones, and are left out",
                len(images) - len(new),
                len(images),
                path,
            )
        parts.append(images)
        kept += new
    if not kept:
        raise KpnetError("data.unlabelled: no image besides the labelled ones: give others, or leave it out")
    common: dict[str, Any] = {"image_size": model.input_size, "in_channels": model.in_channels}
    return UnlabelledImages(
        JoinedImages(parts, [entry.file for entry in data.unlabelled]), kept, skeleton, seed=config.train.seed, **common
    )


def _is_known(images: Images, index: int, known: KnownImages) -> bool:
    if isinstance(images, ImageFiles):
        return known.has_file(images.paths[index], images.bits)
    if isinstance(images, VideoFrames):
        return known.has_digest(images.digests[index])
    return known.has_digest(pixel_digest(images[index]))


def build_images(config: PretrainConfig) -> tuple[UnlabelledImages, UnlabelledImages | None]:
    """Build the datasets of a pretraining.

    Args:
        config: The pretraining's config. Its `data.val` is a file, or a fraction of the images, selected by the seed.

    Returns:
        Training images with augmentation, and validation images without, or None where `data.val` is null.

    Raises:
        KpnetError: There are no images, or none left to train on.
    """
    data, seed = config.data, config.train.seed
    size = config.model.input_size
    images, val = open_images(Path(data.root) / data.images, size, bits=data.bits), data.val
    indices = np.random.default_rng(seed).permutation(len(images)).tolist()
    common: dict[str, Any] = {"image_size": config.model.input_size, "in_channels": config.model.in_channels}
    held: UnlabelledImages | None = None
    if isinstance(val, str):
        held = UnlabelledImages(open_images(Path(data.root) / val, size, bits=data.bits), **common)
    elif val is not None:
        count = max(1, round(val * len(images)))
        if count >= len(images):
            raise KpnetError(
                f"data.val: {val:g} of {len(images)} images leaves none to train on; give more, or val: null"
            )
        held, indices = UnlabelledImages(images, indices[:count], **common), indices[count:]
    train = UnlabelledImages(images, sorted(indices), seed=seed, **common)
    if data.transforms:
        from kpnet.data.transforms.augment import Augment

        train.transform = Augment(data.transforms, train.skeleton)
    return train, held
