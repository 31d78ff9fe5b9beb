"""Several datasets as one, on one skeleton."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from kpnet.core.errors import KpnetError, did_you_mean, few
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import KeypointDataset, Transform
from kpnet.data.surroundings import Surroundings


@dataclass(frozen=True)
class ConcatPart:
    """A dataset that is a part of a `ConcatDataset`.

    Args:
        source: Name of the part in messages.
        dataset: The dataset.
        count: Use only its first `count` samples. None: all of them.
        weight: Factor of its keypoints' weights in the loss.
        transform: Augmentation of its samples.
        partial: Its images have instances without labels.
    """

    source: str
    dataset: KeypointDataset
    count: int | None = None
    weight: float = 1.0
    transform: Transform | None = None
    partial: bool = False

    def __len__(self) -> int:
        return len(self.dataset) if self.count is None else self.count


class ConcatDataset(KeypointDataset):
    """Several datasets as one, on one skeleton.

    Keypoints are matched by name. One that a part lacks is missing there, or is the mean of others if the part's
    skeleton defines it so (`means`).

    Args:
        skeleton: The keypoints of the samples.
        parts: The datasets, whose samples follow one another.
        partial: Allow keypoints that no part has.
        **common: Arguments of `KeypointDataset`.

    Raises:
        KpnetError: A part has fewer samples than its `count` or none of the keypoints, or no part has a keypoint.
    """

    def __init__(
        self, skeleton: Skeleton, parts: Sequence[ConcatPart], *, partial: bool = False, **common: Any
    ) -> None:
        super().__init__(**common)
        self.skeleton = skeleton
        self.parts = list(parts)
        self._ends = list(accumulate(len(part) for part in parts))
        for part in parts:
            _check(part, skeleton)
        known = {name: None for part in parts for name in _known(part)}  # a dictionary keeps their order
        for name in skeleton.names:
            if name not in known and not partial:
                sources = " or ".join(part.source for part in parts)
                raise KpnetError(f'{sources}: no point "{name}", which the skeleton has{did_you_mean(name, known)}')
        self._columns = [_columns(part, skeleton) for part in parts]
        self._means = [_means(part, skeleton) for part in parts]
        self._as_they_are = [part.dataset.skeleton.names == skeleton.names for part in parts]

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        number, place = self._find(index)
        image, xy = self.parts[number].dataset.read(place)
        return image, self._match(number, xy, np.nan, np.mean)

    def keypoints_of(self, index: int) -> np.ndarray:
        number, place = self._find(index)
        return self._match(number, self.parts[number].dataset.keypoints_of(place), np.nan, np.mean)

    def image_shape(self, index: int) -> tuple[int, int]:
        number, place = self._find(index)
        return self.parts[number].dataset.image_shape(place)

    def point_weights(self, index: int) -> np.ndarray:
        """Return the part's own weights times the weight of the part."""
        number, place = self._find(index)
        part = self.parts[number]
        return part.weight * self._match(number, part.dataset.point_weights(place), 1.0, np.min)

    def labels(self) -> np.ndarray:
        every = [part.dataset.labels()[: len(part)] for part in self.parts]
        return np.concatenate([self._match(number, has.T, False, np.min).T for number, has in enumerate(every)])

    def clips(self) -> np.ndarray:
        """Return the clips of the parts, numbered one after another."""
        every = [part.dataset.clips()[: len(part)] for part in self.parts]
        return np.concatenate([ids + start for ids, start in zip(every, [0, *self._ends], strict=False)])

    def split(self, values: np.ndarray) -> list[np.ndarray]:
        """Split values of the samples (N, …) into one array for each part."""
        return np.split(values, self._ends[:-1])

    def transform_of(self, index: int) -> Transform | None:
        return self.parts[self._find(index)[0]].transform

    def image_name(self, index: int) -> str:
        """Return the part's own name, with the source of the part before it if there are several parts."""
        number, place = self._find(index)
        return self._name(number, self.parts[number].dataset.image_name(place))

    def image_file(self, index: int) -> Path | None:
        number, place = self._find(index)
        return self.parts[number].dataset.image_file(place)

    def image_key(self, index: int) -> str:
        """Return the part's own key, which is the same in parts that share a file, or else the sample's name."""
        number, place = self._find(index)
        part = self.parts[number].dataset
        key = part.image_key(place)
        return self.image_name(index) if key == part.image_name(place) else key

    def instance(self, index: int) -> int:
        number, place = self._find(index)
        return self.parts[number].dataset.instance(place)

    def box(self, index: int) -> np.ndarray | None:
        number, place = self._find(index)
        return self.parts[number].dataset.box(place)

    def area(self, index: int) -> float | None:
        number, place = self._find(index)
        return self.parts[number].dataset.area(place)

    def surroundings(self) -> list[Surroundings]:
        """Return those of the parts.

        An image some of whose samples are beyond a part's `count` is partly labelled. A part that is cut so has as many
        of its images without samples as of its samples.
        """
        found = []
        for number, part in enumerate(self.parts):
            every = part.dataset.surroundings()
            bare = [each for each in every if each.read is not None]
            share = round(len(bare) * len(part) / max(1, len(part.dataset)))
            inner = {each.key: each for each in every if each.read is None}
            for key, each in _partly(part).items():
                inner[key] = replace(inner.get(key, each), partial=True)
            kept = {part.dataset.image_key(place) for place in range(len(part))} if part.count is not None else inner
            for each in [*(each for key, each in inner.items() if key in kept), *bare[:share]]:
                name = self._name(number, each.name)
                key = name if each.key == each.name else each.key
                partial = each.partial or part.partial
                found.append(replace(each, key=key, name=name, partial=partial, transform=part.transform))
        return found

    def _name(self, number: int, name: str) -> str:
        return name if len(self.parts) == 1 else f"{self.parts[number].source}:{name}"

    def visibility(self, index: int) -> np.ndarray:
        number, place = self._find(index)
        return self._match(number, self.parts[number].dataset.visibility(place), 0, np.min).astype(np.uint8)

    def presence(self, index: int) -> np.ndarray:
        """Return what the labels say; of points that the part does not have at all, nothing is known."""
        number, _ = self._find(index)
        has = np.ones(len(self.parts[number].dataset.skeleton), bool)
        return np.where(self._match(number, has, False, np.min), super().presence(index), np.nan)

    def _find(self, index: int) -> tuple[int, int]:
        """Return the number of the sample's part, and the index of the sample in it."""
        index = range(len(self))[index]
        number = bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)

    def _match(self, number: int, values: np.ndarray, absent: Any, combine: Callable[..., Any]) -> np.ndarray:
        """Arrange values of a part's points as those of the skeleton's (K, …), combined for means of several points."""
        if self._as_they_are[number]:
            return values
        columns = self._columns[number]
        shape = (-1, *[1] * (values.ndim - 1))
        matched = np.where((columns < 0).reshape(shape), absent, values[columns])
        for k, members in self._means[number].items():
            matched[k] = combine(values[members], axis=0)
        return matched


def _partly(part: ConcatPart) -> dict[str, Surroundings]:
    """Return the images of a part that have samples and are partly labelled, by their keys."""
    dataset = part.dataset
    if part.count is None and not part.partial:
        return {}
    key, name = dataset.image_key, dataset.image_name
    used = {key(place): name(place) for place in range(len(part))}
    cut = used if part.partial else {key(place): name(place) for place in range(len(part), len(dataset))}
    return {each: Surroundings(each, cut[each]) for each in cut if each in used}


def _columns(part: ConcatPart, skeleton: Skeleton) -> np.ndarray:
    """Return the index in the part of each of the skeleton's points, int (K,), -1 where the part lacks it."""
    place = {name: k for k, name in enumerate(part.dataset.skeleton.names)}
    return np.array([place.get(name, -1) for name in skeleton.names])


def _known(part: ConcatPart) -> list[str]:
    """Return the names of the points that a part has, and of those that its skeleton defines as means of them."""
    return [*part.dataset.skeleton.names, *(part.dataset.skeleton.means or ())]


def _means(part: ConcatPart, skeleton: Skeleton) -> dict[int, list[int]]:
    """Return which of the skeleton's points are means of the part's: index there to indices in the part."""
    names, means = part.dataset.skeleton.names, part.dataset.skeleton.means or {}
    return {k: [names.index(each) for each in means[name]] for k, name in enumerate(skeleton.names) if name in means}


def _check(part: ConcatPart, skeleton: Skeleton) -> None:
    names, count = _known(part), len(part.dataset)
    if len(part) > count:
        raise KpnetError(f"{part.source}: limit is {part.count}, but it has {count} samples")
    if not set(names) & set(skeleton.names):
        raise KpnetError(
            f"{part.source}: none of its points ({few(names)}) is one of the skeleton's ({few(skeleton.names)})"
        )
