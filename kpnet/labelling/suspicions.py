"""Labels that are probably wrong, as the page shows them: what is suspected, and what would mend it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data.formats.instances import PROPOSED, InstanceDataset, Instances
from kpnet.data.formats.skipped import Skipped
from kpnet.evaluation.doctor import examine_with_run
from kpnet.evaluation.suspicions import NONE_FITS, Suspicion
from kpnet.labelling.label_rows import DECIMALS, Instance, Point
from kpnet.labelling.labels import LabelFile
from kpnet.labelling.source import Source


@dataclass(frozen=True)
class SuspectedLabels:
    """Labels of one instance that are probably wrong.

    Attributes:
        instance: Number of the instance in its image.
        kind: What is suspected, one of `kpnet.evaluation.suspicions.KINDS`.
        note: What would mend it, in words.
        changes: For each point concerned its number, its label as it was examined, and the mended one; None is no
            label.
    """

    instance: int
    kind: str
    note: str
    changes: tuple[tuple[int, Point | None, Point | None], ...]

    def to_json(self) -> dict[str, Any]:
        """Return the form in which the page reads it."""
        return {"instance": self.instance, "kind": self.kind, "note": self.note, "changes": self.changes}


def examine_labels(
    run: Path, source: Source, labels: LabelFile, *, boxed_only: bool = False
) -> dict[int, list[SuspectedLabels]]:
    """Examine the labels that there are now with a model, as `kpnet.evaluation.doctor.suspicious` does.

    Args:
        run: Folder of a run that was trained on other data.
        source: The images. One that cannot be read is skipped with a warning.
        labels: Their labels.
        boxed_only: Skip instances without a box, for a model that crops by it.

    Returns:
        What is suspected, by image, the worst image first.

    Raises:
        KpnetError: The model does not fit, or there are fewer than 50 labelled points that it has.
    """
    skeleton, every = labels.snapshot()
    if skeleton is None:
        return {}
    places = [
        (index, number)
        for index, instances in enumerate(every)
        for number, instance in enumerate(instances)
        if any(point is not None and point.visibility for point in instance.points)
    ]
    if not places:
        raise KpnetError(f"{labels.path}: no labelled point in it; expected labels to examine: place some points first")
    instances = [every[i][n] for i, n in places]
    dataset = _LabelledImages(source, labels, skeleton, places, instances, boxed_only, source.problems)
    try:
        examined = examine_with_run(run, dataset)
    except _UnreadableImageError:  # all are looked for: reading them takes about as long as predicting them
        problems = _find_problems(source, dict.fromkeys(index for index, _ in places))
        dataset = _LabelledImages(source, labels, skeleton, places, instances, boxed_only, problems)
        examined = examine_with_run(run, dataset)
    found: dict[int, list[SuspectedLabels]] = {}
    for each in examined.suspicions:
        index, number = places[dataset.kept[each.index]]
        changes = _changes(each, examined.skeleton, skeleton, every[index], number)
        note = f"{each.note}; m takes the model's points instead" if each.note == NONE_FITS else each.note
        found.setdefault(index, []).append(SuspectedLabels(number, each.kind, note, changes))
    return found


class _UnreadableImageError(KpnetError):
    """Raised when an image turns out to be unreadable while its labels are examined."""


def _find_problems(source: Source, indices: Iterable[int]) -> dict[int, str]:
    """Return why images cannot be read, by index."""
    problems = {}
    for index in indices:
        try:
            source.read(index)
        except KpnetError as error:
            problems[index] = str(error)
    return problems


class _LabelledImages(InstanceDataset):
    """The instances of a session that have labels, but for those on images with problems."""

    def __init__(
        self,
        source: Source,
        labels: LabelFile,
        skeleton: Skeleton,
        places: Sequence[tuple[int, int]],
        instances: Sequence[Instance],
        boxed_only: bool,
        problems: Mapping[int, str],
    ) -> None:
        self._source = source
        numbers, image_index = np.unique([index for index, _ in places], return_inverse=True)
        self._numbers = numbers.tolist()
        nothing = (np.nan,) * 4
        super().__init__(
            Instances(
                skeleton,
                np.array([labels.images[index] for index in self._numbers]),
                image_index,
                np.array([[_place(point) for point in instance.points] for instance in instances]),
                [labels.images[index] for index, _ in places],
                boxes=np.array([instance.box or nothing for instance in instances]),
            ),
            Skipped(labels.path, strict=False),
            [problems.get(index) for index in self._numbers],
            boxed_only=boxed_only,
        )

    def image(self, index: int) -> np.ndarray:
        try:
            return self._source.read(self._numbers[self._image_index[index]])
        except KpnetError as error:
            raise _UnreadableImageError(str(error)) from None


def _place(point: Point | None) -> tuple[float, float]:
    if point is None or point.x is None or point.y is None:
        return np.nan, np.nan
    return point.x, point.y


def _changes(
    suspicion: Suspicion, examined: Skeleton, skeleton: Skeleton, instances: Sequence[Instance], number: int
) -> tuple[tuple[int, Point | None, Point | None], ...]:
    """Return the change of each point.

    A label that moves to another point stays as it was made. One of the model's points keeps the visibility of the
    label that it replaces.
    """
    known = {_place(point): point for instance in instances for point in instance.points if point is not None}
    changes = []
    for k in suspicion.points:
        if examined.names[k] not in skeleton.names:
            continue
        own = skeleton.names.index(examined.names[k])
        x, y = suspicion.proposal[k].tolist()
        before, after = instances[number].points[own], None
        if np.isfinite((x, y)).all():
            level = before.visibility if before is not None and before.visibility else 2
            after = known.get((x, y), Point(round(x, DECIMALS), round(y, DECIMALS), level, PROPOSED))
        changes.append((own, before, after))
    return tuple(changes)
