"""Several datasets as one, on one skeleton."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kpnet.data.base import KeypointDataset, Transform
from kpnet.errors import KpnetError, nearest
from kpnet.skeleton import Skeleton


@dataclass(frozen=True)
class DataPart:
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


class Joined(KeypointDataset):
    """The samples of the parts, one after another. Points are matched by name: what a part has not is missing.

    A KpnetError for a part that has not so many samples or not one of the skeleton's points, and for a point
    that no part has. `common` are the arguments of the base class.
    """

    def __init__(self, skeleton: Skeleton, parts: Sequence[DataPart], **common: Any) -> None:
        super().__init__(**common)
        self.skeleton = skeleton
        self.parts = list(parts)
        self._ends = np.cumsum([len(part) for part in parts])
        for part in parts:
            _check(part, skeleton)
        known = {name: None for part in parts for name in part.dataset.skeleton.names}  # in their order
        for name in skeleton.names:
            if name not in known:
                sources = " or ".join(part.source for part in parts)
                raise KpnetError(f'{sources}: no point "{name}", which the skeleton has{nearest(name, known)}')
        self._columns = [_columns(part, skeleton) for part in parts]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The part's image, and its points (K, 2) in the skeleton's order, NaN where it has none."""
        number, place = self._find(index)
        image, xy = self.parts[number].dataset.read(place)
        return image, self._match(number, xy, np.nan)

    def point_weights(self, index: int) -> np.ndarray:
        """The part's own, times its weight."""
        number, place = self._find(index)
        part = self.parts[number]
        return part.weight * self._match(number, part.dataset.point_weights(place), 1.0)

    def labels(self) -> np.ndarray:
        """Which points each sample has, bool (N, K)."""
        every = [part.dataset.labels()[: len(part)] for part in self.parts]
        return np.concatenate([self._match(number, has.T, False).T for number, has in enumerate(every)])

    def clips(self) -> np.ndarray:
        """The parts' own, one after another."""
        every = [part.dataset.clips()[: len(part)] for part in self.parts]
        return np.concatenate([ids + start for ids, start in zip(every, np.r_[0, self._ends], strict=False)])

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

    def _find(self, index: int) -> tuple[int, int]:
        """The number of the sample's part, and its index there."""
        index = range(len(self))[index]
        number = int(np.searchsorted(self._ends, index, "right"))
        return number, index - (int(self._ends[number - 1]) if number else 0)

    def _match(self, number: int, values: np.ndarray, absent: Any) -> np.ndarray:
        """Values of a part's points (points, …) as those of the skeleton's (K, …)."""
        columns = self._columns[number]
        shape = (-1, *[1] * (values.ndim - 1))
        return np.where((columns < 0).reshape(shape), absent, values[columns])


def _columns(part: DataPart, skeleton: Skeleton) -> np.ndarray:
    """Where each of the skeleton's points stands among the part's, int (K,); -1 where it has none."""
    place = {name: k for k, name in enumerate(part.dataset.skeleton.names)}
    return np.array([place.get(name, -1) for name in skeleton.names])


def _check(part: DataPart, skeleton: Skeleton) -> None:
    names, count = part.dataset.skeleton.names, len(part.dataset)
    if len(part) > count:
        raise KpnetError(f"{part.source}: limit is {part.count}, but it has {count} samples")
    if not set(names) & set(skeleton.names):
        raise KpnetError(
            f"{part.source}: none of its points ({_few(names)}) is one of the skeleton's ({_few(skeleton.names)})"
        )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f", … {len(names)} in all" if len(names) > 3 else "")
