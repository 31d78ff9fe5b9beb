"""Base class of the formats that hold their labels as arrays: N instances on M images."""

from __future__ import annotations

import copy
import hashlib
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from kpnet.config.schema import DataConfig
from kpnet.core.errors import KpnetError, few, shorten
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import KeypointDataset
from kpnet.data.cropping import instance_box
from kpnet.data.formats.conventions import convert_points
from kpnet.data.formats.skipped import Skipped
from kpnet.data.surroundings import Background, Surroundings

PERSON, PROPOSED = "person", "proposed"
SOURCES = ("", PERSON, PROPOSED)  # who made a point: not stated, a person, or a model, or copied from another image
_log = logging.getLogger("kpnet")
_LIMIT = 2.0**24  # pixels; a coordinate beyond is none


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
    sources: np.ndarray | None = None  # uint8 (N, K): index in SOURCES of who made each point; None: not stated
    proposed_weight: float = 1.0  # of proposed points in the loss
    unweighed: np.ndarray | None = None  # bool (N,): whether proposed points were left out, which have no weight
    background: Background = field(default_factory=Background)

    def weigh_proposed(self, weight: float) -> None:
        """Set the weight of proposed points in the loss; 0 leaves them out."""
        if not (math.isfinite(weight) and weight >= 0):
            raise KpnetError(f"proposed_weight: expected a number of at least 0, found {weight:g}")
        self.proposed_weight = weight
        if self.sources is not None and not weight:
            proposed = self.sources == SOURCES.index(PROPOSED)
            self.unweighed = (proposed & np.isfinite(self.keypoints).all(-1)).any(-1)
            self.keypoints[proposed], self.sources[proposed] = np.nan, 0


class InstanceDataset(KeypointDataset):
    """Subclasses parse a file into `Instances` and implement `image(index)`.

    Instances with an infinite coordinate or an image that cannot be used are skipped, with one warning for all of them.
    Instances with only proposed points are left out with a note where these have no weight.
    A point with a visibility other than 0, 1 and 2 is left out with a warning, and so is its instance if it was its
    only point. A box that has no area or lies outside its image is left out with a warning, too.

    Args:
        instances: What the file holds.
        skipped: Collects the reasons why instances are skipped; its `strict` makes the first one an error.
        image_problems: For each of the M images why it cannot be used, or None. Empty: all can be.
        skeleton: Skeleton to use if its keypoint names are the file's. Otherwise the file's own is used.
        complete_only: Use only samples that have every keypoint, of those that the skeleton names and the file has.
        boxed_only: Skip samples without a box, which cannot be cropped by it.
        missing: Value, or list of values, that both coordinates of a missing keypoint have, such as 0 or -1.
        normalized: Coordinates of keypoints are parts of the image's width and height, from 0 to 1.
        index_base: Coordinate of the centre of the upper left pixel: 0, or 1 as MATLAB counts.
        swap_xy: The first coordinate of a keypoint is y, as in rows and columns.
        **common: Arguments of `KeypointDataset`.

    Attributes:
        kept: Int (N,), the index in `instances` of each sample.
        skipped: `skipped.messages` has one line for each skipped instance, and `skipped.notes` one for each oddity.
        index_base: The option.
    """

    def __init__(
        self,
        instances: Instances,
        skipped: Skipped,
        image_problems: Sequence[str | None] = (),
        *,
        skeleton: Skeleton | None = None,
        complete_only: bool = False,
        boxed_only: bool = False,
        missing: float | list[float] | None = None,
        normalized: bool = False,
        index_base: Literal[0, 1] = 0,
        swap_xy: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        instances.keypoints = convert_points(
            instances.keypoints,
            None if instances.sizes is None else instances.sizes[instances.image_index],
            missing=missing,
            normalized=normalized,
            index_base=index_base,
            swap_xy=swap_xy,
        )
        self.index_base = index_base
        own = instances.skeleton
        self.skipped = skipped
        self.skeleton = skeleton if skeleton is not None and skeleton.names == own.names else own
        _normalise_visibility(instances)
        keep = _usable(instances, skipped, image_problems, boxed_only)
        _note_repeated(instances, keep, skipped)
        skipped.warn(int(keep.sum()))
        if complete_only:
            keep &= _complete(skipped.source, instances, skeleton, keep)
        self._background = _with_left_out(instances, keep, image_problems)
        self.kept = np.flatnonzero(keep)
        self.images, self._sizes = instances.images, instances.sizes
        self._image_index, self._keypoints = instances.image_index[keep], instances.keypoints[keep]
        self._visibility = None if instances.visibility is None else instances.visibility[keep].astype(np.uint8)
        self._boxes = None if instances.boxes is None else instances.boxes[keep]
        self._instance = number_in_image(self._image_index)
        self._sources = None if instances.sources is None else instances.sources[keep]
        self._proposed_weight = instances.proposed_weight

    @classmethod
    def open(cls, data: DataConfig, source: str | int, skeleton: Skeleton | None, **options: Any) -> Self:
        """Open the file or folder `source` below `data.root`. It keeps its own keypoints, whatever the skeleton."""
        boxed_only = data.crop is not None and data.crop.by == "box"
        given = {"skeleton": skeleton, "complete_only": data.complete_only, "strict": data.strict}
        given |= {"boxed_only": True} if boxed_only else {}
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

    def keypoints_of(self, index: int) -> np.ndarray:
        return self.keypoints(index)

    def visibility(self, index: int) -> np.ndarray:
        if self._visibility is None:
            return np.where(np.isfinite(self._keypoints[index]).all(-1), 2, 0).astype(np.uint8)
        return self._visibility[index].copy()

    def replace_keypoints(
        self, keypoints: np.ndarray, visibility: np.ndarray, sources: np.ndarray | None = None
    ) -> Self:
        other = copy.copy(self)
        other._keypoints = np.array(keypoints, np.float64)
        if self._visibility is not None:
            other._visibility = np.array(visibility, np.uint8)
        if self._sources is not None and sources is not None:
            other._sources = np.array(sources, np.uint8)
        return other

    def box(self, index: int) -> np.ndarray | None:
        if self._boxes is None or np.isnan(self._boxes[index]).any():
            return None
        return self._boxes[index].copy()

    def point_sources(self, index: int) -> np.ndarray | None:
        """Return who made each keypoint, absent ones included.

        Args:
            index: Index of the sample.

        Returns:
            Uint8 (K,): 0 not stated, 1 a person, 2 proposed by a model or copied; None if no sample states it.
        """
        return None if self._sources is None else self._sources[index].copy()

    def point_weights(self, index: int) -> np.ndarray:
        if self._sources is None:
            return super().point_weights(index)
        return np.where(self._sources[index] == SOURCES.index(PROPOSED), self._proposed_weight, 1.0)

    def surroundings(self) -> list[Surroundings]:
        background = self._background
        firsts = np.unique(self._image_index, return_index=True)[1].tolist()
        used = {self.image_key(first): self.image_name(first) for first in firsts}
        ignored: dict[str, list[np.ndarray]] = {}
        partial: set[str] = set()
        names = dict.fromkeys(
            [*background.images, *(name for name, _ in background.ignored), *sorted(background.partial)]
        )
        keys = {name: key for name in names if (key := self._key(name)) is not None}
        for name, box in background.ignored:
            if name in keys:
                ignored.setdefault(keys[name], []).append(self._region(name, box))
        partial = {keys[name] for name in background.partial if name in keys}
        found: dict[str, Surroundings] = {}
        missing = [name for name in names if name not in keys]
        for name, key in keys.items():
            if key in found or (key in used and key not in ignored and key not in partial):
                continue
            read = None if key in used else self._reader(name, background.images.get(name, (0, 0)))
            if read is None and key not in used:
                missing.append(name)
                continue
            boxes = np.array(ignored.get(key, ()), np.float64).reshape(-1, 4)
            file = None if key in used else self._file(name)
            found[key] = Surroundings(key, used.get(key, name), read, boxes, key in partial, file)
        if missing:
            _log.warning(
                "%s: %d images without an instance cannot be read, and are left out: %s",
                self.skipped.source,
                len(missing),
                few(missing),
            )
        return list(found.values())

    def _key(self, name: str) -> str | None:
        """Return what `image_key` gives for an image by the name that the labels have for it; None without image."""
        return name

    def _file(self, name: str) -> Path | None:
        """Return the file of an image that can be read."""
        return None

    def _reader(self, name: str, size: tuple[int, int]) -> Callable[[], np.ndarray] | None:
        """Return what reads an image without samples; None if nothing can. `size`: height and width, 0: not stated."""
        return None

    def _region(self, name: str, box: np.ndarray) -> np.ndarray:
        """Return a box of the background in pixels."""
        return box

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


def tell_apart(names: Sequence[str], images: np.ndarray, skipped: Skipped) -> list[str]:
    """Return names for images in one array, of which several may have one name.

    Rows of one name and the same pixels are instances of one image, and keep the name. Other pixels get a number behind
    the name.

    Args:
        names: Name of each of the N images.
        images: Uint8 (N, …).
        skipped: Records it if a name stands for several images.

    Returns:
        The N names, each of which stands for one image.
    """
    shared = {name for name, count in Counter(names).items() if count > 1}
    taken, own, changed = set(names), list(names), []
    known: dict[tuple[str, bytes], str] = {}
    seen: set[str] = set()
    for row, name in enumerate(names):
        if name not in shared:
            continue
        key = name, hashlib.blake2b(np.ascontiguousarray(images[row]).tobytes(), digest_size=16).digest()
        if key not in known:
            number = 2
            while name in seen and (own_name := f"{name}_{number}") in taken:
                number += 1
            known[key] = own_name if name in seen else name
            if name in seen:
                changed.append(f'"{shorten(name)}" as "{shorten(own_name)}"')
            taken.add(known[key])
            seen.add(name)
        own[row] = known[key]
    if changed:
        skipped.note(f"names that stand for several images are kept apart by a number: {few(changed)}")
    return own


def _usable(
    instances: Instances, skipped: Skipped, image_problems: Sequence[str | None], boxed_only: bool
) -> np.ndarray:
    """Return which instances can be used, bool (N,), and remove points and boxes that are none from `instances`."""
    keep = np.ones(len(instances.image_index), bool)

    def drop(index: int, reason: str) -> None:
        keep[index] = False
        skipped.add(f"{instances.origins[index]}: {reason}")

    unusable = [number for number, problem in enumerate(image_problems) if problem is not None]
    for index in np.flatnonzero(np.isin(instances.image_index, unusable)).tolist():
        drop(index, str(image_problems[instances.image_index[index]]))
    for index, k in np.argwhere((np.abs(instances.keypoints) > _LIMIT).any(-1)).tolist():
        if keep[index]:
            x, y = instances.keypoints[index, k]
            drop(index, f"{instances.skeleton.names[k]} is at {x:g}, {y:g}; expected pixels")
    _leave_out_odd_visibilities(instances, keep, skipped)
    for index, reason in _invalid_boxes(instances):
        if not keep[index]:
            continue
        if boxed_only:
            drop(index, reason)
        else:
            skipped.note(f"{instances.origins[index]}: {reason}; the box is left out", lost=True)
        instances.boxes[index] = np.nan  # type: ignore[index]
    if boxed_only:
        none = np.ones(len(keep), bool) if instances.boxes is None else np.isnan(instances.boxes).any(-1)
        for index in np.flatnonzero(none & keep).tolist():
            drop(index, "it has no box, which data.crop: box needs; use crop: points, or leave crop out")
    if instances.unweighed is not None:
        bare = instances.unweighed & ~np.isfinite(instances.keypoints).all(-1).any(-1) & keep
        if bare.any():
            keep &= ~bare
            skipped.note(f"{int(bare.sum())} instances have only proposed points, which proposed_weight: 0 leaves out")
        if not keep.any() and not skipped.messages:
            raise KpnetError(
                f"{skipped.source}: every point is a proposed one, which proposed_weight: 0 leaves out; "
                "give a weight above 0, or check the points in kpnet label"
            )
    return keep


def _with_left_out(instances: Instances, keep: np.ndarray, image_problems: Sequence[str | None]) -> Background:
    """Return the background with the instances that are left out: they are on their images, and no samples."""
    whole = instances.background
    background = Background(whole.images, list(whole.ignored), set(whole.partial))
    unusable = [number for number, problem in enumerate(image_problems) if problem is not None]
    for index in np.flatnonzero(~keep & ~np.isin(instances.image_index, unusable)).tolist():
        name = str(instances.images[instances.image_index[index]])
        box = None if instances.boxes is None or np.isnan(instances.boxes[index]).any() else instances.boxes[index]
        points = instances.keypoints[index]
        points = np.where(np.abs(points) > _LIMIT, np.nan, points)
        box = instance_box(box, points, None)
        if box is None:
            background.partial.add(name)
        else:
            background.ignored.append((name, np.array(box)))
    return background


def _leave_out_odd_visibilities(instances: Instances, keep: np.ndarray, skipped: Skipped) -> None:
    """Remove points whose visibility is not 0, 1 or 2, and no longer `keep` instances that then have no point."""
    level = instances.visibility
    if level is None:
        return
    odd = ~np.isin(level, (0, 1, 2))
    for index in np.flatnonzero(odd.any(-1) & keep).tolist():
        k, count = int(odd[index].argmax()), int(odd[index].sum())
        reason = f"{instances.skeleton.names[k]} has visibility {level[index, k]:g}; expected 0, 1 or 2"
        instances.keypoints[index, odd[index]] = np.nan
        keep[index] = np.isfinite(instances.keypoints[index]).all(-1).any()
        origin = instances.origins[index]
        if keep[index]:
            points = "the point is" if count == 1 else f"{count} such points are"
            skipped.note(f"{origin}: {reason}; {points} left out", lost=True)
        else:
            skipped.add(f"{origin}: {reason}")
    level[odd] = 0
    if instances.sources is not None:
        instances.sources[odd] = 0  # a person's point without a place would be one that is said to be absent


def _invalid_boxes(instances: Instances) -> Iterator[tuple[int, str]]:
    boxes = instances.boxes
    if boxes is None:
        return
    with np.errstate(invalid="ignore"):
        none = (np.isnan(boxes).any(-1) & ~np.isnan(boxes).all(-1)) | (np.abs(boxes) > _LIMIT).any(-1)
        bad = none | (boxes[:, 2:] <= boxes[:, :2]).any(-1)
    for index in np.flatnonzero(bad).tolist():
        what = "is none; expected four edges in pixels" if none[index] else "has no area; expected x0 < x1 and y0 < y1"
        yield index, f"its box {_format_box(boxes[index])} {what}"
    if instances.sizes is None:
        return
    size = instances.sizes[instances.image_index][:, ::-1]  # W, H
    outside = (boxes[:, 2:] <= -0.5).any(-1) | (boxes[:, :2] >= size - 0.5).any(-1)
    for index in np.flatnonzero(outside & ~bad & size.all(-1)).tolist():
        width, height = size[index]
        yield index, f"its box {_format_box(boxes[index])} lies outside the image of {width}x{height}"


def _note_repeated(instances: Instances, keep: np.ndarray, skipped: Skipped) -> None:
    """Note instances that stand twice, as when a file of labels is put together from others that overlap."""
    labelled = np.isfinite(instances.keypoints).all(-1).any(-1) & keep
    shared = np.bincount(instances.image_index, minlength=1)[instances.image_index] > 1
    first: dict[tuple[int, bytes], int] = {}
    twice = []
    for index in np.flatnonzero(labelled & shared).tolist():
        key = int(instances.image_index[index]), instances.keypoints[index].tobytes()
        if first.setdefault(key, index) != index:
            twice.append(f"{instances.origins[index]} is {instances.origins[first[key]]}")
    if twice:
        skipped.note(f"instances with the same points on the same image appear more than once: {few(twice)}")


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


def number_in_image(image_index: np.ndarray) -> np.ndarray:
    """Return the number (N,) of each instance among those of its image, int (N,)."""
    order = np.argsort(image_index, kind="stable")
    first = np.searchsorted(image_index[order], image_index[order])
    number = np.empty(len(image_index), np.int64)
    number[order] = np.arange(len(image_index)) - first
    return number
