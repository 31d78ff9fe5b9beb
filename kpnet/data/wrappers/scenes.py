"""Whole images with all their instances: what a network that finds instances learns from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from kpnet import coordinates
from kpnet.core.errors import KpnetError
from kpnet.data.base import KeypointDataset, Transform
from kpnet.data.croppers import median_side
from kpnet.data.cropping import instance_box
from kpnet.data.images import letterbox, to_channels
from kpnet.data.surroundings import Surroundings, no_boxes
from kpnet.data.transforms.boxes import corners_of, hull_of_corners, moved_boxes
from kpnet.data.wrappers.subset import Subset

_SCENE = 1  # sets the draws of a whole image apart from those of its crops


@dataclass
class SceneTruth:
    """What is on an image, in its own pixels.

    Attributes:
        image: Name of the image.
        points: Keypoints of the instances, float64 (G, K, 2), NaN where absent.
        visible: Whether each is labelled, bool (G, K).
        boxes: Edges x0, y0, x1, y1 of each instance, float64 (G, 4).
        areas: Areas in square pixels, float64 (G,): the data's, or else the boxes'.
        ignored: Edges of regions that are neither right nor wrong, float64 (I, 4).
        partial: The image has instances without labels.
    """

    image: str
    points: np.ndarray
    visible: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    ignored: np.ndarray
    partial: bool


@dataclass(frozen=True)
class _Image:
    """An image: its samples in the dataset, and what is known beyond them."""

    samples: tuple[int, ...]
    key: str
    name: str
    read: Callable[[], np.ndarray] | None
    ignored: np.ndarray
    partial: bool
    file: Path | None  # as is the next, of an image without samples
    transform: Transform | None


class Scenes(KeypointDataset):
    """The whole images of a dataset, each with all its instances; images without any are among them.

    An item is a dictionary. M is the largest number of instances of an image, I that of regions, each at least 1:

    - `image`: float32 (C, H, W) in [0, 1], letterboxed and augmented.
    - `boxes`: float32 (M, 4), edges x0, y0, x1, y1 in [-1, 1], which they may leave; NaN in rows without an instance.
    - `keypoints`: float32 (M, K, 2) in [-1, 1], 0 where not visible.
    - `visible`: bool (M, K).
    - `weight`: float32 (M, K), 0 where not visible.
    - `ignored`: float32 (I, 4), regions that are neither right nor wrong; NaN in rows without one. They are the data's
      (crowds, instances without points) and instances whose centre augmentation moved off the image.
    - `partial`: bool (), whether background in the image counts for nothing.
    - `index` and `matrix`: as in `KeypointDataset`.

    An image that is partly labelled and has no labelled instance says nothing, and is left out.

    Args:
        dataset: The samples, of which those of one `image_key` are one image.
        size: Height and width to which the images are letterboxed.
        in_channels: 1 converts every image to grey, 3 to RGB. None keeps the channels.
        transform: Augmentation of all images. None: that of the dataset for each image.
        seed: Seed of the augmentation.

    Attributes:
        dataset: The argument.
        fallback_side: Side of the box of an instance without a box and with points that span no area, in pixels.

    Raises:
        KpnetError: No image has a labelled instance or is known to be empty.
    """

    def __init__(
        self,
        dataset: KeypointDataset,
        size: tuple[int, int],
        in_channels: int | None = None,
        transform: Transform | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(image_size=size, in_channels=in_channels, transform=transform, seed=seed)
        self.dataset, self.skeleton, self.size = dataset, dataset.skeleton, size
        cropper = dataset.cropper
        side = None if cropper is None else cropper.fallback_side
        self.fallback_side = median_side(dataset) if side is None else side
        self._labelled = np.asarray(dataset.labels().any(-1))
        self._images = _group(dataset, self._labelled)
        if not self._images:
            raise KpnetError("no image has a labelled instance, or is known to have none")
        counts = [int(self._labelled[list(image.samples)].sum()) for image in self._images]
        rest = [len(i.samples) + len(i.ignored) for i in self._images]  # any instance may leave the image
        self._most, self._most_ignored = max(1, *counts), max(1, *rest)

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int) -> np.ndarray:
        """Return the original image, uint8 (H, W) or (H, W, C)."""
        image = self._images[index]
        return self.dataset.read(image.samples[0])[0] if image.read is None else image.read()

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the original image, and the points of its first instance, NaN without one."""
        return self.image(index), self.keypoints_of(index)

    def keypoints_of(self, index: int) -> np.ndarray:
        every = self.truth(index).points
        return every[0] if len(every) else np.full((len(self.skeleton), 2), np.nan)

    def labels(self) -> np.ndarray:
        """Return which keypoints any instance of each image has, bool (N, K)."""
        every = self.dataset.labels()
        return np.stack([every[list(image.samples)].any(0) for image in self._images])

    def image_name(self, index: int) -> str:
        return self._images[index].name

    def image_file(self, index: int) -> Path | None:
        image = self._images[index]
        return self.dataset.image_file(image.samples[0]) if image.samples else image.file

    def image_key(self, index: int) -> str:
        return self._images[index].key

    def image_shape(self, index: int) -> tuple[int, int]:
        image = self._images[index]
        if image.samples:
            return self.dataset.image_shape(image.samples[0])
        height, width = self.image(index).shape[:2]
        return height, width

    def visibility(self, index: int) -> np.ndarray:
        return np.where(np.isfinite(self.keypoints_of(index)).all(-1), 2, 0).astype(np.uint8)

    def transform_of(self, index: int) -> Transform | None:
        if self.transform is not None:
            return self.transform
        image = self._images[index]
        return self.dataset.transform_of(image.samples[0]) if image.samples else image.transform

    def truth(self, index: int) -> SceneTruth:
        """Return what is on an image.

        Args:
            index: Index of the image.

        Returns:
            The instances that have a labelled point, and what else is known, in pixels of the original image.
        """
        image, dataset = self._images[index], self.dataset
        points, boxes, areas, ignored = [], [], [], [image.ignored]
        for sample in image.samples:
            xy, box, area = dataset.keypoints_of(sample), dataset.box(sample), dataset.area(sample)
            own = instance_box(box, xy, self.fallback_side)
            if self._labelled[sample]:
                assert own is not None
                points.append(xy)
                boxes.append(own)
                areas.append(float(np.prod(own[2:] - own[:2])) if area is None else area)
            elif own is not None:
                ignored.append(own[None])
        xy = np.array(points, np.float64).reshape(-1, len(self.skeleton), 2)
        visible = np.asarray(np.isfinite(xy).all(-1))
        return SceneTruth(
            image.name,
            xy,
            visible,
            np.array(boxes, np.float64).reshape(-1, 4),
            np.array(areas, np.float64),
            np.concatenate(ignored),
            image.partial,
        )

    def sample(self, index: int, draws: tuple[int, ...]) -> dict[str, Any]:
        truth, transform = self.truth(index), self.transform_of(index)
        image = self.image(index)
        image, matrix = letterbox(
            image if self.in_channels is None else to_channels(image, self.in_channels), self.size
        )
        xy, count = coordinates.transform(truth.points, matrix), len(truth.points)
        corners = coordinates.transform(corners_of(np.concatenate([truth.boxes, truth.ignored])), matrix)
        samples = [sample for sample in self._images[index].samples if self._labelled[sample]]
        weight = np.array([self.dataset.point_weights(sample) for sample in samples]).reshape(count, len(self.skeleton))
        boxes, ignored = hull_of_corners(corners[:count]), hull_of_corners(corners[count:])
        if transform is not None:
            seed = int(np.random.SeedSequence(draws).generate_state(1)[0])
            numbers = np.broadcast_to(np.arange(len(self.skeleton)), weight.shape)
            image, moved, corners = _augment(transform, image, np.dstack([xy, weight, numbers]), corners, seed)
            before = np.take_along_axis(xy, moved[..., 3:].astype(int), 1)  # swapped as the moved points are
            boxes = moved_boxes(before, moved[..., :2], boxes, corners[:count])
            ignored, xy, weight = hull_of_corners(corners[count:]), moved[..., :2], moved[..., 2]
        return self._item(index, image, matrix, (xy, weight, boxes, ignored), augmented=transform is not None)

    def _item(
        self,
        index: int,
        image: np.ndarray,
        matrix: np.ndarray,
        found: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
        *,
        augmented: bool,
    ) -> dict[str, Any]:
        """Return the item of points (G, K, 2), weights (G, K), boxes (G, 4) and regions (R, 4) in pixels of `image`."""
        xy, weight, boxes, ignored = found
        here: np.ndarray = coordinates.inside((boxes[:, :2] + boxes[:, 2:]) / 2, self.size) | (not augmented)
        ignored = np.concatenate([ignored, boxes[~here]])
        height, width = self.size
        with np.errstate(invalid="ignore"):
            on = (ignored[:, 2:] > -0.5).all(-1) & (ignored[:, :2] < (width - 0.5, height - 0.5)).all(-1)
        xy, weight, boxes, ignored = xy[here], weight[here], boxes[here], ignored[on]
        visible = coordinates.inside(xy, self.size) if augmented else np.isfinite(xy).all(-1)
        keypoints = np.where(visible[..., None], coordinates.pixel_to_normalized(xy, self.size), 0.0)
        points = (self._most, len(self.skeleton))
        return {
            "image": self._tensor(image),
            "boxes": _rows(_normalized(boxes, self.size), (self._most, 4), np.nan),
            "keypoints": _rows(keypoints, (*points, 2), 0.0),
            "visible": _rows(visible, points, 0.0) > 0,
            "weight": _rows(np.where(visible, weight, 0), points, 0.0),
            "ignored": _rows(_normalized(ignored, self.size), (self._most_ignored, 4), np.nan),
            "partial": torch.tensor(self._images[index].partial),
            "index": index,
            "matrix": torch.from_numpy(matrix.astype(np.float32)),
        }


class WithScenes(Subset):
    """The samples of a dataset, each with a whole image under the key `scene`, for crops and a finder at once.

    It is as long as the longer of the two: the other one is repeated, with draws of its own, and each epoch goes on
    where the one before ended, so that over the epochs all are seen alike. Samples without a labelled point are left
    out.

    Args:
        instances: The samples.
        scenes: The whole images.

    Attributes:
        scenes: The argument.

    Raises:
        KpnetError: No sample has a label.
    """

    def __init__(self, instances: KeypointDataset, scenes: Scenes) -> None:
        labelled = np.flatnonzero(instances.labels().any(-1))
        if not len(labelled):
            raise KpnetError("no instance has a labelled point")
        super().__init__(instances, np.resize(labelled, max(len(labelled), len(scenes))))
        self.scenes = scenes
        self._count = len(labelled)

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.scenes.set_epoch(epoch)

    def in_bytes(self) -> Self:
        copied = super().in_bytes()
        copied.scenes = self.scenes.in_bytes()
        return copied

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        turn = index + max(0, int(self._epoch)) * len(self)
        place, place_of_scene = turn % self._count, turn % len(self.scenes)
        draws, draws_of_scene = self.draws(place), self.scenes.draws(place_of_scene)
        draws = (*draws[:-1], index) if draws else draws
        draws_of_scene = (*draws_of_scene[:-1], index, _SCENE) if draws_of_scene else draws_of_scene
        return {**self.sample(place, draws), "scene": self.scenes.sample(place_of_scene, draws_of_scene)}


def _group(dataset: KeypointDataset, labelled: np.ndarray) -> list[_Image]:
    """Return the images of a dataset: those of its samples, and then those without any."""
    samples: dict[str, list[int]] = {}
    for index in range(len(dataset)):
        samples.setdefault(dataset.image_key(index), []).append(index)
    around: dict[str, list[Surroundings]] = {}
    for each in dataset.surroundings():
        around.setdefault(each.key, []).append(each)
    found = []
    for key in dict.fromkeys([*samples, *around]):
        own, said = samples.get(key, []), around.get(key, [])
        partial = any(each.partial for each in said)
        if partial and not labelled[own].any():
            continue
        reads = [each for each in said if each.read is not None]
        if not own and not reads:
            continue
        found.append(
            _Image(
                tuple(own),
                key,
                dataset.image_name(own[0]) if own else reads[0].name,
                None if own else reads[0].read,
                np.concatenate([each.ignored for each in said]) if said else no_boxes(),
                partial,
                None if own else reads[0].file,
                None if own else reads[0].transform,
            )
        )
    return found


def _augment(
    transform: Transform, image: np.ndarray, points: np.ndarray, corners: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Augment an image with points (G, K, D) and the corners of boxes (B, 4, 2); all move by one matrix.

    Each corner goes as an instance with all its points in one place, so that it does not matter which of them swap.
    """
    as_points = np.zeros((corners.shape[0] * 4, *points.shape[1:]))
    as_points[..., :2] = corners.reshape(-1, 1, 2)
    image, moved = transform(image, np.concatenate([points, as_points]), seed)
    return image, moved[: len(points)], moved[len(points) :, 0, :2].reshape(corners.shape)


def _normalized(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return coordinates.pixel_to_normalized(boxes.reshape(-1, 2, 2), size).reshape(-1, 4)


def _rows(values: np.ndarray, shape: tuple[int, ...], empty: float) -> torch.Tensor:
    """Return float32 of a shape whose first rows are the values, the others `empty`."""
    rows = torch.full(shape, empty)
    rows[: len(values)] = torch.from_numpy(values.astype(np.float32))
    return rows
