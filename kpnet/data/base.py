"""The dataset contract: how raw images and points become a model's samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from kpnet import coordinates
from kpnet.config.schema import DataConfig
from kpnet.core.errors import KpnetError
from kpnet.core.registry import Registry
from kpnet.core.skeleton import Skeleton
from kpnet.data.cropping import Cropper
from kpnet.data.images import crop, letterbox, to_channels

# (image, points, seed) to image and points, augmented; points float64 (K, 3): x, y in pixels (NaN for absent), weight
Transform = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


class KeypointDataset(Dataset[dict[str, Any]]):
    """Base of every format. A subclass fills `skeleton`, `__len__` and `read`.

    Items: `image` float (C, H, W) in [0, 1], `keypoints` float (K, 2) in [-1, 1] (0 where not visible),
    `visible` bool (K,), `weight` float (K,), what each point counts in the loss (0 where not visible), the stable
    `index`, and `matrix` float (2, 3), from the original image's pixels to the model's by letterbox or crop
    alone. The model normalises the image itself.

    `image_size` (H, W) letterboxes every image to one size (None: as it is), `in_channels` converts
    between grey and colour, `transform` augments with draws from (seed, epoch, index) alone. A `cropper`, once
    it is set, fits what lies about the sample's box in place of the whole image.
    """

    skeleton: Skeleton
    cropper: Cropper | None = None

    def __init__(
        self,
        *,
        image_size: tuple[int, int] | None = None,
        in_channels: int | None = None,
        transform: Transform | None = None,
        seed: int = 0,
    ) -> None:
        self.image_size = image_size
        self.in_channels = in_channels
        self.transform = transform
        self.seed = seed
        # In shared memory, so that workers that live on see the new epoch.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    @classmethod
    def open(cls, data: DataConfig, source: str | int, skeleton: Skeleton | None, **common: Any) -> Self:
        """Built from a config: `source` is a file under `data.root`, `common` the arguments of this base class, and
        the format's own options.

        skeleton: the points that are asked for, or None. A source that has not all of them is opened with its own:
        the caller matches them by name.
        """
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 (H, W) or (H, W, C) and keypoints float64 (K, 2) in its pixels, NaN where absent."""
        raise NotImplementedError

    def point_weights(self, index: int) -> np.ndarray:
        """What each point of the sample counts in the loss, float64 (K,)."""
        return np.ones(len(self.skeleton))

    def labels(self) -> np.ndarray:
        """Which points each sample has, bool (N, K). Reads every sample; a format that knows better says so."""
        return np.stack([np.isfinite(self.read(index)[1]).all(-1) for index in range(len(self))])

    def image_name(self, index: int) -> str:
        """What predictions call this sample. Samples of one image share it."""
        return str(index)

    def instance(self, index: int) -> int:
        """The sample's number, from 0, among those of its image."""
        return 0

    def box(self, index: int) -> np.ndarray | None:
        """The sample's box float64 (4,): the edges x0, y0, x1, y1 in the pixels of `read`, where an image reaches
        from -0.5 to W - 0.5. None where the format has none."""
        return None

    def visibility(self, index: int) -> np.ndarray:
        """Uint8 (K,): 0 for an absent point, 1 for a labelled one that something hides, 2 for one that is seen.

        A format that does not tell hidden from seen says 2.
        """
        return np.where(np.isfinite(self.read(index)[1]).all(-1), 2, 0).astype(np.uint8)

    def set_epoch(self, epoch: int) -> None:
        """Augmentation draws change with the epoch."""
        self._epoch.fill_(epoch)

    def transform_of(self, index: int) -> Transform | None:
        """The augmentation of this sample."""
        return self.transform

    def sample_pixels(
        self, index: int, draws: np.random.Generator | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The model's view before normalisation: image uint8, keypoints in its pixels, and the 2x3
        mapping from the original image's pixels to it (of letterbox or crop alone). draws: of the crop's jitter,
        if it has one; None for the crop as it is."""
        image, xy = self.read(index)
        matrix = np.eye(2, 3)
        if self.in_channels is not None:
            image = to_channels(image, self.in_channels)
        if self.image_size is not None and self.cropper is not None:
            try:
                region = self.cropper.region(self.box(index), xy, image.shape, self.image_size, draws)
            except KpnetError as error:
                raise KpnetError(f"{self.image_name(index)}: {error}") from None
            image, matrix = crop(image, region, self.image_size)
            xy = coordinates.transform(xy, matrix)
        elif self.image_size is not None and image.shape[:2] != self.image_size:
            image, matrix = letterbox(image, self.image_size)
            xy = coordinates.transform(xy, matrix)
        return image, xy, matrix

    def clips(self) -> np.ndarray:
        """The clip that each sample is a frame of, int (N,); frames follow one another. Each sample its own: stills."""
        return np.arange(len(self))

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]  # negative ones count from the end, others are an IndexError
        return self.sample(index, index)

    def sample(self, index: int, draws: int) -> dict[str, Any]:
        """The item `index`, cropped and augmented as the item `draws` is: frames of a clip move as one."""
        weight, transform = self.point_weights(index), self.transform_of(index)
        jitters = self.cropper is not None and self.cropper.jitters
        augmented = transform is not None or jitters
        if augmented:
            seed, seed_of_crop = np.random.SeedSequence((self.seed, int(self._epoch), draws)).generate_state(2)
        image, xy, matrix = self.sample_pixels(index, np.random.default_rng(seed_of_crop) if jitters else None)
        if transform is not None:
            image, points = transform(image, np.column_stack([xy, weight]), int(seed))
            xy, weight = points[:, :2], points[:, 2]  # of a mirrored image in another order
        size = (image.shape[0], image.shape[1])
        # What was augmented off the image is not there; a label that lies outside is.
        visible = coordinates.inside(xy, size) if augmented else np.isfinite(xy).all(-1)  # False for NaN
        keypoints = np.where(visible[:, None], coordinates.pixel_to_normalized(xy, size), 0.0)
        return {
            "image": _to_tensor(image),
            "keypoints": torch.from_numpy(keypoints.astype(np.float32)),
            "visible": torch.from_numpy(visible),
            "weight": torch.from_numpy(np.where(visible, weight, 0).astype(np.float32)),
            "index": index,
            "matrix": torch.from_numpy(matrix.astype(np.float32)),
        }


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    """Uint8 (H, W) or (H, W, C) as float (C, H, W) in [0, 1], its channels one after another in memory."""
    if image.dtype != np.uint8:
        raise KpnetError(f"expected an image uint8 (H, W) or (H, W, C), found {image.dtype} {image.shape}")
    planes = np.empty((1 if image.ndim == 2 else image.shape[2], *image.shape[:2]), np.uint8)
    cv2.split(image, list(planes))  # the quickest way, the copy into a batch included
    return torch.from_numpy(planes).to(torch.float32).mul_(1 / 255)


# What kpnet gives a format's constructor. Its other keyword-only parameters are its options in `data.format`.
COMMON_ARGUMENTS = frozenset({"skeleton", "complete_only", "strict", "image_size", "in_channels", "transform", "seed"})

DATASETS: Registry[type[KeypointDataset]] = Registry("data format")
