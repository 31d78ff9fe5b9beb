"""Several datasets as one, on one skeleton."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from kpnet.core.errors import KpnetError, did_you_mean
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import KeypointDataset, Transform


@dataclass(frozen=True)
class ConcatPart:
    """The first `count` samples of a dataset (None: all), called `source` in messages.

    `weight` multiplies the weights of its points; `transform` augments its samples.
    """

    source: str
    dataset: KeypointDataset
    count: int | None = None
    weight: float = 1.0
    transform: Transform | None = None

    def __len__(self) -> int:
        return len(self.dataset) if self.count is None else self.count


class ConcatDataset(KeypointDataset):
    """The samples of the parts, one after another. Points are matched by name: what a part has not is missing, but
    for what its skeleton tells as the mean of others.

    A KpnetError for a part that has not so many samples or not one of the skeleton's points, and for a point
    that no part has, unless `partial`. `common` are the arguments of the base class.
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
        known = {name: None for part in parts for name in _known(part)}  # in their order
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
        """The part's image, and its points (K, 2) in the skeleton's order, NaN where it has none."""
        number, place = self._find(index)
        image, xy = self.parts[number].dataset.read(place)
        return image, self._match(number, xy, np.nan, np.mean)

    def point_weights(self, index: int) -> np.ndarray:
        """The part's own, times its weight."""
        number, place = self._find(index)
        part = self.parts[number]
        return part.weight * self._match(number, part.dataset.point_weights(place), 1.0, np.min)

    def labels(self) -> np.ndarray:
        """Which points each sample has, bool (N, K)."""
        every = [part.dataset.labels()[: len(part)] for part in self.parts]
        return np.concatenate([self._match(number, has.T, False, np.min).T for number, has in enumerate(every)])

    def clips(self) -> np.ndarray:
        """The parts' own, one after another."""
        every = [part.dataset.clips()[: len(part)] for part in self.parts]
        return np.concatenate([ids + start for ids, start in zip(every, [0, *self._ends], strict=False)])

    def split(self, values: np.ndarray) -> list[np.ndarray]:
        """Values of the samples (N, …) as one array a part."""
        return np.split(values, self._ends[:-1])

    def transform_of(self, index: int) -> Transform | None:
        """The part's."""
        return self.parts[self._find(index)[0]].transform

    def image_name(self, index: int) -> str:
        """The part's own, after the part's source where there are several."""
        number, place = self._find(index)
        name = self.parts[number].dataset.image_name(place)
        return name if len(self.parts) == 1 else f"{self.parts[number].source}:{name}"

    def instance(self, index: int) -> int:
        """The part's."""
        number, place = self._find(index)
        return self.parts[number].dataset.instance(place)

    def box(self, index: int) -> np.ndarray | None:
        """The part's."""
        number, place = self._find(index)
        return self.parts[number].dataset.box(place)

    def visibility(self, index: int) -> np.ndarray:
        """The part's, uint8 (K,), 0 for a point that it has not."""
        number, place = self._find(index)
        return self._match(number, self.parts[number].dataset.visibility(place), 0, np.min).astype(np.uint8)

    def _find(self, index: int) -> tuple[int, int]:
        """The number of the sample's part, and its index there."""
        index = range(len(self))[index]
        number = bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)

    def _match(self, number: int, values: np.ndarray, absent: Any, combine: Callable[..., Any]) -> np.ndarray:
        """Values of a part's points (points, …) as those of the skeleton's (K, …), combined where one is told by
        several."""
        if self._as_they_are[number]:
            return values
        columns = self._columns[number]
        shape = (-1, *[1] * (values.ndim - 1))
        matched = np.where((columns < 0).reshape(shape), absent, values[columns])
        for k, members in self._means[number].items():
            matched[k] = combine(values[members], axis=0)
        return matched


def _columns(part: ConcatPart, skeleton: Skeleton) -> np.ndarray:
    """Where each of the skeleton's points stands among the part's, int (K,); -1 where it has none."""
    place = {name: k for k, name in enumerate(part.dataset.skeleton.names)}
    return np.array([place.get(name, -1) for name in skeleton.names])


def _known(part: ConcatPart) -> list[str]:
    """The points that a part has, and those that its skeleton tells as means of them."""
    return [*part.dataset.skeleton.names, *(part.dataset.skeleton.means or ())]


def _means(part: ConcatPart, skeleton: Skeleton) -> dict[int, list[int]]:
    """The skeleton's points that are means of the part's: index there to indices in the part."""
    names, means = part.dataset.skeleton.names, part.dataset.skeleton.means or {}
    return {k: [names.index(each) for each in means[name]] for k, name in enumerate(skeleton.names) if name in means}


def _check(part: ConcatPart, skeleton: Skeleton) -> None:
    names, count = _known(part), len(part.dataset)
    if len(part) > count:
        raise KpnetError(f"{part.source}: limit is {part.count}, but it has {count} samples")
    if not set(names) & set(skeleton.names):
        raise KpnetError(
            f"{part.source}: none of its points ({_few(names)}) is one of the skeleton's ({_few(skeleton.names)})"
        )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f", … {len(names)} in all" if len(names) > 3 else "")
