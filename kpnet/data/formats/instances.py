"""What the formats share whose labels are held as arrays: N instances on M images."""

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

    Arrays, not objects: 262 k people with 17 points take 80 MB, which forked loader workers share.
    """

    skeleton: Skeleton
    images: np.ndarray  # text (M,): their names
    image: np.ndarray  # int (N,): which of them each instance is on
    keypoints: np.ndarray  # float64 (N, K, 2) in pixels, NaN where absent
    called: Sequence[str] | np.ndarray  # (N,): how a message names each
    visibility: np.ndarray | None = None  # (N, K): 0 absent, 1 hidden, 2 seen, NaN not told; None: none is told
    boxes: np.ndarray | None = None  # float64 (N, 4): edges in pixels, NaN where there is none
    sizes: np.ndarray | None = None  # int (M, 2): H, W as the file has them, 0 where it does not say


class InstanceDataset(KeypointDataset):
    """A subclass parses, hands over its `Instances`, and says in `image` how a sample's image is had.

    What cannot be used is left out and told once: a coordinate that is infinite, a visibility but 0, 1 and 2, a box
    without area or outside its image, an image with one of `troubles` (M,). strict: the first such is a KpnetError.
    `kept` int (N,) are the others' indices among what was handed over, `skipped.messages` has a line for each that was
    left out.

    skeleton: taken where its points are the file's. complete_only: leave out samples that lack a point, of those that
    the skeleton asks for and the file has.
    """

    def __init__(
        self,
        instances: Instances,
        skipped: Skipped,
        troubles: Sequence[str | None] = (),
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
        keep = _usable(instances, skipped, troubles)
        skipped.tell(int(keep.sum()))
        if complete_only:
            keep &= _complete(skipped.source, instances, skeleton, keep)
        self.kept = np.flatnonzero(keep)
        self.images, self._sizes = instances.images, instances.sizes
        self._image, self._keypoints = instances.image[keep], instances.keypoints[keep]
        self._visibility = None if instances.visibility is None else instances.visibility[keep].astype(np.uint8)
        self._boxes = None if instances.boxes is None else instances.boxes[keep]
        self._instance = _number(self._image)

    @classmethod
    def open(cls, data: DataConfig, source: str | int, skeleton: Skeleton | None, **options: Any) -> Self:
        """The file or folder `source` under `data.root`. Its points are its own, whatever the skeleton."""
        given = {"skeleton": skeleton, "complete_only": data.complete_only, "strict": data.strict}
        return cls(Path(data.root) / str(source), **given, **options)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self._image)

    def image(self, index: int) -> np.ndarray:
        """Uint8 (H, W) or (H, W, C)."""
        raise NotImplementedError

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 (H, W) or (H, W, C) and keypoints float64 (K, 2) in its pixels, NaN where absent; copies."""
        return self.image(index), self.keypoints(index)

    def keypoints(self, index: int) -> np.ndarray:
        """Float64 (K, 2) as `read` gives them, without reading the image; a copy."""
        return np.array(self._keypoints[index], np.float64)

    def visibility(self, index: int) -> np.ndarray:
        """Uint8 (K,): 0 absent, 1 hidden, 2 seen; a copy."""
        if self._visibility is None:
            return np.where(np.isfinite(self._keypoints[index]).all(-1), 2, 0).astype(np.uint8)
        return self._visibility[index].copy()

    def box(self, index: int) -> np.ndarray | None:
        """Float64 (4,), the edges x0, y0, x1, y1 in pixels; None where the file has none."""
        if self._boxes is None or np.isnan(self._boxes[index]).any():
            return None
        return self._boxes[index].copy()

    def labels(self) -> np.ndarray:
        """Which points each sample has, bool (N, K)."""
        has: np.ndarray = np.isfinite(self._keypoints).all(-1)
        return has

    def image_name(self, index: int) -> str:
        """As the file calls it."""
        return str(self.images[self._image[index]])

    def instance(self, index: int) -> int:
        """From 0, among the samples of its image."""
        return int(self._instance[index])


def unnamed_skeleton(count: int, skeleton: Skeleton | None) -> Skeleton:
    """Of points that the file does not name: the skeleton asked for, if it has as many, or 0, 1, 2, …"""
    if skeleton is not None and len(skeleton) == count:
        return skeleton
    return Skeleton(tuple(map(str, range(count))))


def _normalise_visibility(instances: Instances) -> None:
    """A point of visibility 0 has no coordinates, and one without coordinates is 0; one that is not told is seen."""
    level = instances.visibility
    if level is None:
        return
    instances.keypoints[level == 0] = np.nan
    absent = np.isnan(instances.keypoints).any(-1) & (np.isin(level, (1, 2)) | np.isnan(level))
    instances.visibility = np.where(absent, 0, np.nan_to_num(level, nan=2, posinf=np.inf, neginf=-np.inf))


def _usable(instances: Instances, skipped: Skipped, troubles: Sequence[str | None]) -> np.ndarray:
    """Bool (N,). An instance is told once, whatever else is wrong with it."""
    keep = np.ones(len(instances.image), bool)

    def drop(index: int, reason: str) -> None:
        if keep[index]:
            keep[index] = False
            skipped.add(f"{instances.called[index]}: {reason}")

    for index, k in np.argwhere(np.isinf(instances.keypoints).any(-1)).tolist():
        x, y = instances.keypoints[index, k]
        drop(index, f"{instances.skeleton.names[k]} is at {x:g}, {y:g}; expected pixels")
    level = np.zeros(0) if instances.visibility is None else instances.visibility
    for index, k in np.argwhere(~np.isin(level, (0, 1, 2))).tolist():
        drop(index, f"{instances.skeleton.names[k]} has visibility {level[index, k]:g}; expected 0, 1 or 2")
    for index, reason in _bad_boxes(instances):
        drop(index, reason)
    bad = [number for number, reason in enumerate(troubles) if reason is not None]
    for index in np.flatnonzero(np.isin(instances.image, bad)).tolist():
        drop(index, str(troubles[instances.image[index]]))
    return keep


def _bad_boxes(instances: Instances) -> Iterator[tuple[int, str]]:
    boxes = instances.boxes
    if boxes is None:
        return
    for index in np.flatnonzero(np.isinf(boxes).any(-1) | (boxes[:, 2:] <= boxes[:, :2]).any(-1)):
        yield int(index), f"its box {_plain(boxes[index])} has no area; expected edges x0 < x1, y0 < y1"
    if instances.sizes is None:
        return
    size = instances.sizes[instances.image][:, ::-1]  # W, H
    outside = (boxes[:, 2:] <= -0.5).any(-1) | (boxes[:, :2] >= size - 0.5).any(-1)
    for index in np.flatnonzero(outside & size.all(-1)):
        width, height = size[index]
        yield int(index), f"its box {_plain(boxes[index])} lies outside the image of {width}x{height}"


def _plain(values: np.ndarray) -> str:
    return f"[{', '.join(f'{v:g}' for v in values)}]"


def _complete(source: Path, instances: Instances, skeleton: Skeleton | None, keep: np.ndarray) -> np.ndarray:
    own = instances.skeleton.names
    asked = own if skeleton is None else [name for name in own if name in skeleton.names] or own
    has: np.ndarray = np.isfinite(instances.keypoints[:, [own.index(name) for name in asked]]).all((1, 2))
    if not (has & keep).any():
        raise KpnetError(
            f"{source}: none of {int(keep.sum())} instances has all {len(asked)} points, "
            "and complete_only drops the others; set it to false"
        )
    return has


def _number(image: np.ndarray) -> np.ndarray:
    """Each instance's number (N,) among those of its image."""
    order = np.argsort(image, kind="stable")
    first = np.searchsorted(image[order], image[order])
    number = np.empty(len(image), np.int64)
    number[order] = np.arange(len(image)) - first
    return number
