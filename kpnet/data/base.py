"""The contract of a data format, and how raw images and keypoints become a model's samples."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kpnet import coordinates
from kpnet.config.schema import DataConfig
from kpnet.core.errors import KpnetError
from kpnet.core.registry import Registry
from kpnet.core.skeleton import Skeleton
from kpnet.data.cropping import Cropper
from kpnet.data.images import crop, letterbox, to_channels
from kpnet.data.surroundings import Surroundings

# (image, points, seed) to the augmented image and points; points float64 (K, 3): x, y in pixels (NaN: absent), weight;
# or (N, K, 3) of several instances. It may have a method `with_covered`, as `data.transforms.augment.Augment` has.
Transform = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


class KeypointDataset(Dataset[dict[str, Any]]):
    """Base class of every data format. A subclass sets `skeleton` and implements `__len__`, `read` and `open`.

    An item is a dictionary:

    - `image`: float32 (C, H, W) in [0, 1]. The model normalises it itself.
    - `keypoints`: float32 (K, 2) in [-1, 1], 0 where not visible.
    - `visible`: bool (K,), whether the image has a label for the keypoint.
    - `weight`: float32 (K,), weight of each keypoint in the loss, 0 where not visible.
    - `present`: float32 (K,), where `missing` is set: 1 where the keypoint is in `image` and seen, 0 where it is not,
      NaN where that is not known. What augmentation moved out of the image or covered is 0.
    - `index`: the sample's index, the same in every epoch.
    - `matrix`: float32 (2, 3), maps pixels of the original image to pixels of `image`, augmentation not included.

    Args:
        image_size: Height and width to which every image is letterboxed. None keeps each image's own size.
        in_channels: 1 converts every image to grey, 3 to RGB. None keeps the channels.
        transform: Augmentation. Its draws follow from the seed, the index and the epoch (`set_epoch`). Until an epoch
            is set they differ each time, and follow `torch.manual_seed` as those of torchvision's transforms do.
        seed: Seed of the augmentation.

    Attributes:
        skeleton: Names, left/right pairs and edges of the keypoints.
        cropper: Crops the region around each sample's box or keypoints. None uses the whole image.
        missing: What a keypoint without a label is, for a model that learns which are present: `unknown`, or `absent`.
            None: items do not say which keypoints are present.
    """

    skeleton: Skeleton
    cropper: Cropper | None = None
    missing: Literal["unknown", "absent"] | None = None
    _gives_bytes: bool = False

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
        # In shared memory, so that workers that live on see the new epoch; negative until one is set.
        self._epoch = torch.full((1,), -1).share_memory_()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._epoch.share_memory_()  # a copy's tensor is not

    @classmethod
    def open(cls, data: DataConfig, source: str | int, skeleton: Skeleton | None, **common: Any) -> Self:
        """Open a source of the `data:` section of a config.

        Args:
            data: The section.
            source: A file or folder relative to `data.root`, or the number of samples to draw.
            skeleton: The keypoints that are wanted. A source that lacks some of them is opened with its own
                skeleton, and the caller matches them by name. None: the source's own.
            **common: The format's own options and the arguments of this base class.

        Returns:
            The dataset.
        """
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the original image and keypoints of a sample.

        Args:
            index: Index of the sample.

        Returns:
            The image, uint8 (H, W) or (H, W, C), and its keypoints, float64 (K, 2) in pixels, NaN where absent. Both
            may be written into.
        """
        raise NotImplementedError

    def keypoints_of(self, index: int) -> np.ndarray:
        """Return the keypoints that `read` gives. Formats override this where reading the image can be avoided.

        Args:
            index: Index of the sample.

        Returns:
            Float64 (K, 2) in pixels, NaN where absent.
        """
        return self.read(index)[1]

    def image_shape(self, index: int) -> tuple[int, int]:
        """Return the height and width of the sample's image. Formats override this where that needs no pixels.

        Args:
            index: Index of the sample.

        Returns:
            Height and width in pixels.
        """
        height, width = self.read(index)[0].shape[:2]
        return height, width

    def point_weights(self, index: int) -> np.ndarray:
        """Return the weight of each keypoint in the loss.

        Args:
            index: Index of the sample.

        Returns:
            Weights, float64 (K,), of at least 0.
        """
        return np.ones(len(self.skeleton))

    def labels(self) -> np.ndarray:
        """Return which keypoints each sample has. Formats override this where reading every image can be avoided.

        Returns:
            Bool (N, K).
        """
        return np.stack([np.isfinite(self.read(index)[1]).all(-1) for index in range(len(self))])

    def image_name(self, index: int) -> str:
        """Return the name of the sample's image, by which predictions refer to it.

        Args:
            index: Index of the sample.

        Returns:
            The name, shared by all samples of one image.
        """
        return str(index)

    def image_file(self, index: int) -> Path | None:
        """Return the file of the sample's image.

        Args:
            index: Index of the sample.

        Returns:
            The file; None where the image has none of its own.
        """
        return None

    def image_key(self, index: int) -> str:
        """Return what tells the sample's image from all others, by which samples of one image are kept together.

        Args:
            index: Index of the sample.

        Returns:
            The path of the image's file where it has one, else its name.
        """
        return self.image_name(index)

    def instance(self, index: int) -> int:
        """Return the sample's number among the samples of its image.

        Args:
            index: Index of the sample.

        Returns:
            The number, counted from 0.
        """
        return 0

    def box(self, index: int) -> np.ndarray | None:
        """Return the sample's bounding box.

        Args:
            index: Index of the sample.

        Returns:
            The edges x0, y0, x1, y1, float64 (4,), in pixels of the original image, which reaches from -0.5 to
            W - 0.5; None where there is no box.
        """
        return None

    def area(self, index: int) -> float | None:
        """Return the area of the sample's object, as object keypoint similarity measures it.

        Args:
            index: Index of the sample.

        Returns:
            The area in square pixels; None where the data has none.
        """
        return None

    def surroundings(self) -> list[Surroundings]:
        """Return what the data says of images beyond the samples: empty images, and regions that count for nothing.

        Returns:
            One entry for each image that has no sample, and for each of which more is known than its samples. None of
            them is read. A format without such knowledge gives an empty list.
        """
        return []

    def visibility(self, index: int) -> np.ndarray:
        """Return the visibility of each keypoint, as COCO counts it.

        Args:
            index: Index of the sample.

        Returns:
            Uint8 (K,), 0 for absent, 1 for labelled but hidden, 2 for visible. A format that does not distinguish
            hidden from visible keypoints gives 2 for both.
        """
        return np.where(np.isfinite(self.keypoints_of(index)).all(-1), 2, 0).astype(np.uint8)

    def presence(self, index: int) -> np.ndarray:
        """Return which keypoints the labels say are present, wherever they lie.

        Args:
            index: Index of the sample.

        Returns:
            Float64 (K,): 1 for visible, 0 for hidden, and for those without a label 0 where `missing` is `absent`, else
            NaN, not known.
        """
        return np.array([0.0 if self.missing == "absent" else np.nan, 0.0, 1.0])[self.visibility(index)]

    def replace_keypoints(
        self, keypoints: np.ndarray, visibility: np.ndarray, sources: np.ndarray | None = None
    ) -> Self:
        """Return a copy of the dataset with other keypoints; images, boxes and names stay.

        Args:
            keypoints: Float64 (N, K, 2) in pixels, NaN where absent.
            visibility: Uint8 (N, K), as `visibility` counts it; a format that does not distinguish hidden from visible
                keypoints ignores it.
            sources: Uint8 (N, K), who made each keypoint, as `InstanceDataset.point_sources` counts it. None: those
                stay. A dataset that does not state who made its keypoints ignores it.

        Returns:
            The copy, which shares the images.

        Raises:
            KpnetError: The format's labels are not stored, but drawn or computed.
        """
        raise KpnetError(f"{type(self).__name__}: its labels cannot be replaced; expected a file or folder of labels")

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch: what the augmentation draws then depends on the seed, the epoch and the index alone.

        Args:
            epoch: Number of the epoch, at least 0.
        """
        self._epoch.fill_(epoch)

    def in_bytes(self) -> Self:
        """Return a copy whose items have `image` as uint8, a quarter as large; `unit_images` converts it.

        Returns:
            The copy, which shares everything else, the epoch included.
        """
        copied = copy.copy(self)
        copied._gives_bytes = True
        return copied

    def transform_of(self, index: int) -> Transform | None:
        """Return the augmentation of a sample.

        Args:
            index: Index of the sample.

        Returns:
            The augmentation, or None.
        """
        return self.transform

    def sample_pixels(
        self, index: int, draws: np.random.Generator | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return a sample as the model sees it, in pixels and before augmentation.

        Args:
            index: Index of the sample.
            draws: Random generator for the jitter of the crop. None: no jitter.

        Returns:
            The cropped or letterboxed image, uint8, its keypoints, float64 (K, 2) in its pixels, and the 2x3 matrix
            that maps pixels of the original image to its pixels.

        Raises:
            KpnetError: The image has other channels than `in_channels`, or the sample has no box to crop.
        """
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
        """Return the clip that each sample is a frame of. Frames of a clip follow one another.

        Returns:
            Clip numbers, int (N,). Single images are clips of one frame each, which is the default.
        """
        return np.arange(len(self))

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]  # negative ones count from the end, others are an IndexError
        return self.sample(index, self.draws(index))

    def draws(self, index: int) -> tuple[int, ...]:
        """Return numbers from which the random crop and augmentation of a sample follow, for `sample`.

        Args:
            index: Index of the sample.

        Returns:
            The seed, the epoch and the index. Until an epoch is set, a number from torch's random generator takes its
            place: a worker of a `DataLoader` has another seed in each epoch.
        """
        if not self._is_random(index):
            return ()
        epoch = int(self._epoch)
        return self.seed, int(torch.randint(2**62, ())) if epoch < 0 else epoch, index

    def _tensor(self, image: np.ndarray) -> Tensor:
        """Return uint8 (H, W) or (H, W, C) as the image (C, H, W) of an item."""
        planes = _planes(image)
        return planes if self._gives_bytes else unit_images(planes)

    def _is_random(self, index: int) -> bool:
        jitters = self.cropper is not None and self.cropper.jitters
        return jitters or self.transform_of(index) is not None

    def sample(self, index: int, draws: tuple[int, ...]) -> dict[str, Any]:
        """Return an item with given random draws, so that all frames of a clip move alike.

        Args:
            index: Index of the sample.
            draws: What `draws` gave for this sample or another.

        Returns:
            The item, as described for the class.
        """
        weight, transform = self.point_weights(index), self.transform_of(index)
        jitters = self.cropper is not None and self.cropper.jitters
        augmented = self._is_random(index)
        if augmented:
            seed, seed_of_crop = np.random.SeedSequence(draws).generate_state(2)
        image, xy, matrix = self.sample_pixels(index, np.random.default_rng(seed_of_crop) if jitters else None)
        columns = [xy, weight] if self.missing is None else [xy, weight, self.presence(index)]
        image, points, covered = _transformed(transform, image, np.column_stack(columns), int(seed) if augmented else 0)
        xy, weight = points[:, :2], points[:, 2]  # a mirrored image has them in another order
        size = (image.shape[0], image.shape[1])
        # A point that augmentation moved off the image is absent; one labelled outside the image is not.
        visible = coordinates.inside(xy, size) if augmented else np.isfinite(xy).all(-1)  # False for NaN
        keypoints = np.where(visible[:, None], coordinates.pixel_to_normalized(xy, size), 0.0)
        item = {
            "image": self._tensor(image),
            "keypoints": torch.from_numpy(keypoints.astype(np.float32)),
            "visible": torch.from_numpy(visible),
            "weight": torch.from_numpy(np.where(visible, weight, 0).astype(np.float32)),
            "index": index,
            "matrix": torch.from_numpy(matrix.astype(np.float32)),
        }
        if self.missing is not None:
            unseen = np.isfinite(xy).all(-1) & (covered | ~coordinates.inside(xy, size))
            item["present"] = torch.from_numpy(np.where(unseen, 0, points[:, 3]).astype(np.float32))
        return item


def _transformed(
    transform: Transform | None, image: np.ndarray, points: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the augmented image and points (K, D), and which of them it covered, bool (K,), as far as it says so."""
    nothing = np.zeros(len(points), bool)
    if transform is None:
        return image, points, nothing
    with_covered = getattr(transform, "with_covered", None)
    if with_covered is None or points.shape[1] == 3:  # nobody asks
        return *transform(image, points, seed), nothing
    return with_covered(image, points, seed)


def unit_images(images: Tensor) -> Tensor:
    """Convert bytes to grey values of [0, 1], on whatever device they are.

    Args:
        images: Images of any shape, uint8; those of another dtype stay as they are.

    Returns:
        The images, float32.
    """
    return images.to(torch.float32).mul_(1 / 255) if images.dtype == torch.uint8 else images


def _planes(image: np.ndarray) -> Tensor:
    """Convert uint8 (H, W) or (H, W, C) to uint8 (C, H, W), contiguous."""
    if image.dtype != np.uint8:
        raise KpnetError(f"expected an image uint8 (H, W) or (H, W, C), found {image.dtype} {image.shape}")
    planes = np.empty((1 if image.ndim == 2 else image.shape[2], *image.shape[:2]), np.uint8)
    cv2.split(image, list(planes))  # the quickest way, the copy into a batch included
    return torch.from_numpy(planes)


# Arguments that kpnet passes to a format's constructor. Other keyword-only ones are the options of `data.format`.
COMMON_ARGUMENTS = frozenset(
    {"skeleton", "complete_only", "boxed_only", "strict", "image_size", "in_channels", "transform", "seed"}
)

DATASETS: Registry[type[KeypointDataset]] = Registry("data format")
