"""Base class of the formats that hold their labels as arrays: N instances on M images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from kpnet.config.schema import DataConfig
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import KeypointDataset
from kpnet.data.formats.skipped import Skipped


@dataclass
class Instances:
    """N labelled instances on M images, in the file's order.

    These are arrays and not objects: 262,000 people with 17 keypoints take 80 MB, which forked loader workers share.
    """

    skeleton: Skeleton
    images: np.ndarray  # text (M,): names of the images
    image_index: np.ndarray  # int (N,): the image of each instance
    keypoints: np.ndarray  # float64 (N, K, 2) in pixels, NaN where absent
    origins: Sequence[str] | np.ndarray  # text (N,): where the file has each instance, for messages
    visibility: np.ndarray | None = None  # (N, K): 0 absent, 1 hidden, 2 visible, NaN not stated; None: none is stated
    boxes: np.ndarray | None = None  # float64 (N, 4): edges x0, y0, x1, y1 in pixels, NaN where there is none
    sizes: np.ndarray | None = None  # int (M, 2): H, W as stated in the file, 0 where it states none


class InstanceDataset(KeypointDataset):
    """Subclasses parse a file into `Instances` and implement `image(index)`.

    Invalid instances are skipped, with one warning for all of them: those with an infinite coordinate, a visibility
    other than 0, 1 and 2, a box that has no area or lies outside its image, or an image that cannot be used.

    Args:
        instances: What the file holds.
        skipped: Collects the reasons why instances are skipped; its `strict` makes the first one an error.
        image_problems: For each of the M images why it cannot be used, or None. Empty: all can be.
        skeleton: Skeleton to use if its keypoint names are the file's. Otherwise the file's own is used.
        complete_only: Use only samples that have every keypoint, of those that the skeleton names and the file has.
        **common: Arguments of `KeypointDataset`.

    Attributes:
        kept: Int (N,), the index in `instances` of each sample.
        skipped: `skipped.messages` has one line for each skipped instance.
    """

    def __init__(
        self,
        instances: Instances,
        skipped: Skipped,
        image_problems: Sequence[str | None] = (),
        *,
        skeleton: Skeleton | None = None,
        complete_only: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        own = instances.skeleton
        self.skipped = skipped
        self.skeleton = skeleton if skeleton is not None and skeleton.names == own.names else own
        _normalise_visibility(instances)
        keep = _usable(instances, skipped, image_problems)
        skipped.warn(int(keep.sum()))
        if complete_only:
            keep &= _complete(skipped.source, instances, skeleton, keep)
        self.kept = np.flatnonzero(keep)
        self.images, self._sizes = instances.images, instances.sizes
        self._image_index, self._keypoints = instances.image_index[keep], instances.keypoints[keep]
        self._visibility = None if instances.visibility is None else instances.visibility[keep].astype(np.uint8)
        self._boxes = None if instances.boxes is None else instances.boxes[keep]
        self._instance = _number_in_image(self._image_index)

    @classmethod
    def open(cls, data: DataConfig, source: str | int, skeleton: Skeleton | None, **options: Any) -> Self:
        """Open the file or folder `source` below `data.root`. It keeps its own keypoints, whatever the skeleton."""
        given = {"skeleton": skeleton, "complete_only": data.complete_only, "strict": data.strict}
        return cls(Path(data.root) / str(source), **given, **options)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self._image_index)

    def image(self, index: int) -> np.ndarray:
        """Return the image of a sample.

        Args:
            index: Index of the sample.

        Returns:
            Uint8 (H, W) or (H, W, C), which may be written into.
        """
        raise NotImplementedError

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.image(index), self.keypoints(index)

    def keypoints(self, index: int) -> np.ndarray:
        """Return the keypoints, float64 (K, 2), as `read` does but without reading the image."""
        return np.array(self._keypoints[index], np.float64)

    def visibility(self, index: int) -> np.ndarray:
        if self._visibility is None:
            return np.where(np.isfinite(self._keypoints[index]).all(-1), 2, 0).astype(np.uint8)
        return self._visibility[index].copy()

    def box(self, index: int) -> np.ndarray | None:
        if self._boxes is None or np.isnan(self._boxes[index]).any():
            return None
        return self._boxes[index].copy()

    def labels(self) -> np.ndarray:
        has: np.ndarray = np.isfinite(self._keypoints).all(-1)
        return has

    def image_name(self, index: int) -> str:
        """Return the image's name as the file has it."""
        return str(self.images[self._image_index[index]])

    def instance(self, index: int) -> int:
        return int(self._instance[index])


def unnamed_skeleton(count: int, skeleton: Skeleton | None) -> Skeleton:
    """Return a skeleton for keypoints without names: `skeleton` if it has as many, else one named 0, 1, 2 and so on."""
    if skeleton is not None and len(skeleton) == count:
        return skeleton
    return Skeleton(tuple(map(str, range(count))))


def _normalise_visibility(instances: Instances) -> None:
    """Make visibility and coordinates agree: 0 means no coordinates and the reverse, and not stated means visible."""
    level = instances.visibility
    if level is None:
        return
    instances.keypoints[level == 0] = np.nan
    absent = np.isnan(instances.keypoints).any(-1) & (np.isin(level, (1, 2)) | np.isnan(level))
    instances.visibility = np.where(absent, 0, np.nan_to_num(level, nan=2, posinf=np.inf, neginf=-np.inf))


def _usable(instances: Instances, skipped: Skipped, image_problems: Sequence[str | None]) -> np.ndarray:
    """Return which instances can be used, bool (N,). Each of the others is recorded once, with its first problem."""
    keep = np.ones(len(instances.image_index), bool)

    def drop(index: int, reason: str) -> None:
        if keep[index]:
            keep[index] = False
            skipped.add(f"{instances.origins[index]}: {reason}")

    for index, k in np.argwhere(np.isinf(instances.keypoints).any(-1)).tolist():
        x, y = instances.keypoints[index, k]
        drop(index, f"{instances.skeleton.names[k]} is at {x:g}, {y:g}; expected pixels")
    level = np.zeros(0) if instances.visibility is None else instances.visibility
    for index, k in np.argwhere(~np.isin(level, (0, 1, 2))).tolist():
        drop(index, f"{instances.skeleton.names[k]} has visibility {level[index, k]:g}; expected 0, 1 or 2")
    for index, reason in _invalid_boxes(instances):
        drop(index, reason)
    unusable = [number for number, problem in enumerate(image_problems) if problem is not None]
    for index in np.flatnonzero(np.isin(instances.image_index, unusable)).tolist():
        drop(index, str(image_problems[instances.image_index[index]]))
    return keep


def _invalid_boxes(instances: Instances) -> Iterator[tuple[int, str]]:
    boxes = instances.boxes
    if boxes is None:
        return
    for index in np.flatnonzero(np.isinf(boxes).any(-1) | (boxes[:, 2:] <= boxes[:, :2]).any(-1)):
        yield int(index), f"its box {_format_box(boxes[index])} has no area; expected edges x0 < x1, y0 < y1"
    if instances.sizes is None:
        return
    size = instances.sizes[instances.image_index][:, ::-1]  # W, H
    outside = (boxes[:, 2:] <= -0.5).any(-1) | (boxes[:, :2] >= size - 0.5).any(-1)
    for index in np.flatnonzero(outside & size.all(-1)):
        width, height = size[index]
        yield int(index), f"its box {_format_box(boxes[index])} lies outside the image of {width}x{height}"


def _format_box(edges: np.ndarray) -> str:
    return f"[{', '.join(f'{v:g}' for v in edges)}]"


def _complete(source: Path, instances: Instances, skeleton: Skeleton | None, keep: np.ndarray) -> np.ndarray:
    own = instances.skeleton.names
    asked = own if skeleton is None else [name for name in own if name in skeleton.names] or own
    has: np.ndarray = np.isfinite(instances.keypoints[:, [own.index(name) for name in asked]]).all((1, 2))
    if not (has & keep).any():
        raise KpnetError(
            f"{source}: none of {int(keep.sum())} instances has all {len(asked)} points, "
            "and complete_only skips the others; set it to false"
        )
    return has


def _number_in_image(image_index: np.ndarray) -> np.ndarray:
    """Return the number (N,) of each instance among those of its image."""
    order = np.argsort(image_index, kind="stable")
    first = np.searchsorted(image_index[order], image_index[order])
    number = np.empty(len(image_index), np.int64)
    number[order] = np.arange(len(image_index)) - first
    return number
