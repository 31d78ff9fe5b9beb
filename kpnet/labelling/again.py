"""Labelled images that are shown anew, without their labels: how far one person is from themselves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kpnet.core.errors import KpnetError
from kpnet.core.locking import locked
from kpnet.core.skeleton import Skeleton
from kpnet.data.formats.instances import PERSON
from kpnet.labelling.labels import LabelFile, skeleton_path
from kpnet.labelling.source import Source, open_labels


@dataclass(frozen=True)
class Again:
    """Images to label again.

    Attributes:
        source: The images, without labels; their file of labels is the new one.
        skeleton: The keypoints of the first labels, or those that the page made of them in an earlier call.
        first: The file of the first labels.
    """

    source: Source
    skeleton: Skeleton
    first: Path


def draw_again(source: Source, count: int, *, out: Path | None = None, skeleton: Skeleton | None = None) -> Again:
    """Draw labelled images to label again, in a random order that is the same each time.

    Images that an earlier call began stay among them. Labels that are only in a file of another format are written to
    the source's file of labels, so that the two can be compared.

    Args:
        source: The images and their labels.
        count: Number of images, of those with a point that a person placed.
        out: The file of the first labels. None: the source's.
        skeleton: The keypoints. None: those of the labels.

    Returns:
        The images. Their labels belong into a file beside the first one, whose name ends in `_again`.

    Raises:
        KpnetError: There are fewer labelled images, or a file of labels is another program's.
    """
    path = source.labels if out is None else out
    first = open_labels(source, path, skeleton)
    labelled = [index for index in range(len(first)) if index not in source.problems and _by_person(first, index)]
    if not labelled or first.skeleton is None:
        raise KpnetError(
            f"--again: {path}: no image has points that a person placed; label some first, without --again"
        )
    if count > len(labelled):
        raise KpnetError(f"--again: expected at most {len(labelled)}, the images with a person's points, found {count}")
    beside = path.with_name(f"{path.stem}_again{path.suffix}")
    made = skeleton_path(beside)
    own = Skeleton.load(made) if made.is_file() else first.skeleton
    begun = open_labels(source, beside, own) if beside.exists() else None
    if not path.exists():
        with locked(path.with_name(f".{path.name}.lock"), path):
            first.set_skeleton(first.skeleton)  # writes the file
    drawn = np.random.default_rng(0).permutation(labelled).tolist()
    known = [index for index in drawn if begun is not None and begun.instances(index)]
    chosen = {*known, *[index for index in drawn if index not in known][: max(count - len(known), 0)]}
    images = [source.images[index] for index in drawn if index in chosen]
    return Again(Source(images, beside, inside=source.inside), own, path)


def _by_person(labels: LabelFile, index: int) -> bool:
    return any(
        point is not None and point.visibility and point.source == PERSON
        for instance in labels.instances(index)
        for point in instance.points
    )
