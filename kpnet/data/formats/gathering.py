"""Gather the points and boxes of labelling tools, which stand one by one in a file, into instances."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kpnet.core.errors import KpnetError, few, shorten
from kpnet.core.skeleton import Skeleton
from kpnet.data.formats.instances import Instances
from kpnet.data.formats.skipped import Skipped
from kpnet.data.surroundings import Background

HIDDEN, VISIBLE = 1, 2
_HIDDEN_WORDS = frozenset({"occluded", "hidden", "invisible", "not visible"})
_MAX_SIDE = 2**31
_MAX_NAME = 4096  # characters of a path
_MOST_POINTS = 10_000  # names of points; a file with more has other labels


def number(value: Any) -> float:
    """Return a number of a JSON file as it is, NaN for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # integers in JSON have any length
        return math.inf


def image_size(height: Any, width: Any) -> tuple[int, int]:
    """Return an image's stated height and width, 0 where the file has no such number."""
    sides = [number(side) for side in (height, width)]
    good = all(1 <= side < _MAX_SIDE and side == int(side) for side in sides if math.isfinite(side))
    return (int(sides[0]), int(sides[1])) if good and all(map(math.isfinite, sides)) else (0, 0)


def says_hidden(words: Iterable[Any]) -> bool:
    """Return whether one of the words, which people choose themselves, says that a point is hidden."""
    return any(isinstance(word, str) and word.strip().lower().replace("_", " ") in _HIDDEN_WORDS for word in words)


def check_name(value: Any) -> str | None:
    """Return why a value is no name of an image file, or None."""
    if not isinstance(value, str) or not value.strip():
        return "it names no image"
    return f"no file has a name of {len(value)} characters" if len(value) > _MAX_NAME else None


@dataclass
class Shapes:
    """The points and boxes on one image, each with a group or without one.

    Points of one group are an instance. Those without a group are one instance, too, and a box without a group is that
    of the only instance.
    """

    points: dict[Hashable, dict[str, tuple[float, float, int]]] = field(default_factory=dict)
    boxes: dict[Hashable, list[float]] = field(default_factory=dict)
    problem: str | None = None  # why the points are no instances
    partial: bool = False  # whether the image has instances that are not used

    def add_point(self, group: Hashable, name: str, x: float, y: float, level: int = VISIBLE) -> None:
        """Add a point at x, y in pixels whose integers are pixel centres."""
        known = self.points.setdefault(group, {})
        if name in known and self.problem is None:
            where = "without a group" if group is None else f"in group {shorten(str(group))}"
            self.problem = f'several points {where} are called "{shorten(name)}"; expected a group for each instance'
        known[name] = x, y, level

    def add_box(self, group: Hashable, edges: Sequence[float]) -> bool:
        """Add a box x0, y0, x1, y1; return False if its group has one already."""
        if group in self.boxes:
            return False
        self.boxes[group] = list(edges)
        return True

    def instances(self) -> list[tuple[Hashable, dict[str, tuple[float, float, int]], list[float] | None]]:
        """Return each instance's group, points by name, and box."""
        boxes = dict(self.boxes)
        if len(self.points) == 1 and len(boxes) == 1 and None in (*self.points, *boxes):
            return [(group, points, next(iter(boxes.values()))) for group, points in self.points.items()]
        groups = list(dict.fromkeys([*self.points, *boxes]))
        return [(group, self.points.get(group, {}), boxes.get(group)) for group in groups]


class Gatherer:
    """Collects images and their instances, and makes arrays of them.

    Args:
        skipped: Records what cannot be used.
        empty: Also use instances without a labelled point, and images without an instance.
    """

    def __init__(self, skipped: Skipped, empty: bool) -> None:
        self.skipped, self.empty = skipped, empty
        self.images: list[str] = []
        self.names: dict[str, None] = {}  # of the points, in their order
        self.unlabelled = 0  # what `empty` would use
        self._number: dict[str, int] = {}
        self._sizes: list[tuple[int, int]] = []
        self._rows: list[tuple[int, str, dict[str, tuple[float, float, int]], list[float] | None]] = []
        self._ignored: list[tuple[int, list[float]]] = []  # boxes without points
        self._partial: set[int] = set()

    def add_image(self, name: str, size: tuple[int, int], origin: str, shapes: Shapes) -> None:
        """Add an image with what is on it."""
        image = self._image(name, size)
        if shapes.problem is not None:
            self._partial.add(image)
            self.skipped.add(f"{origin}: {shapes.problem}")
            return
        found = shapes.instances() or [(None, {}, None)]
        labelled = [each for each in found if each[1]]
        if shapes.partial:
            self._partial.add(image)
        if not self.empty:
            self._ignored += [(image, box) for _, points, box in found if not points and box is not None]
        self.unlabelled += 0 if self.empty else len(found) - len(labelled)
        for group, points, box in found if self.empty else labelled:
            where = origin if group is None else f"{origin}, {group}"
            wrong = next((n for n, (x, y, _) in points.items() if not math.isfinite(x + y)), None)
            if wrong is not None:
                self.skipped.add(f"{where}: {shorten(wrong)} has no finite x and y")
                self._partial.add(image)
                continue
            self.names |= dict.fromkeys(points)
            self._rows.append((image, where, points, box))

    def _image(self, name: str, size: tuple[int, int]) -> int:
        if name not in self._number:
            self._number[name] = len(self.images)
            self.images.append(name)
            self._sizes.append(size)
        return self._number[name]

    def build(
        self,
        asked: Skeleton | None,
        edges: Sequence[tuple[str, str]] = (),
        pairs: Sequence[tuple[str, str]] = (),
    ) -> Instances:
        """Return the instances as arrays.

        Args:
            asked: Skeleton whose order of names is used if it has the names that were found.
            edges: Names that the file's skeleton connects.
            pairs: (left, right) names, if the file has them.

        Returns:
            The instances.

        Raises:
            KpnetError: No instance can be used.
        """
        if self.unlabelled:
            self.skipped.note(
                f"{self.unlabelled} images or instances without a labelled point are not used; empty: true uses them"
            )
        if not self._rows or not self.names:
            self.skipped.warn(0)
        if len(self.names) > _MOST_POINTS:
            raise KpnetError(f"{self.skipped.source}: {len(self.names)} names of points, such as {few(self.names)}")
        names = list(self.names)
        if asked is not None and set(asked.names) == set(names):
            names = list(asked.names)
        own = Skeleton.of_names(names)
        if (edges or pairs) and not own.name:
            own = Skeleton(own.names, tuple(pairs) or own.pairs, tuple(edges))
        xy = np.full((len(self._rows), len(names), 2), np.nan)
        level = np.zeros(xy.shape[:2])
        boxes = np.full((len(self._rows), 4), np.nan)
        place = {name: k for k, name in enumerate(names)}
        for row, (_, _, points, box) in enumerate(self._rows):
            for name, (x, y, v) in points.items():
                xy[row, place[name]], level[row, place[name]] = (x, y), v
            if box is not None:
                boxes[row] = box
        return Instances(
            own,
            np.array(self.images, str),
            np.array([row[0] for row in self._rows], np.int64),
            xy,
            np.array([row[1] for row in self._rows], str),
            level,
            None if np.isnan(boxes).all() else boxes,
            np.array(self._sizes, int).reshape(-1, 2),
            background=self._background(),
        )

    @property
    def labelled(self) -> bool:
        """Whether there is an instance."""
        return bool(self._rows)

    def _background(self) -> Background:
        used = {row[0] for row in self._rows}
        bare = {name: self._sizes[k] for k, name in enumerate(self.images) if k not in used}
        ignored = [(self.images[k], np.array(box, float)) for k, box in self._ignored if np.isfinite(box).all()]
        return Background(bare, ignored, {self.images[k] for k in self._partial})
