"""The file of labels that `kpnet label` writes."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from kpnet.core.errors import KpnetError
from kpnet.core.files import write_atomic
from kpnet.core.skeleton import Skeleton
from kpnet.core.yaml import write_yaml
from kpnet.data.formats.writing import csv_text
from kpnet.labelling.label_rows import (
    Instance,
    check_kept,
    check_names,
    column_names,
    parse_table,
    reorder_points,
    row_text,
)


class StaleRevisionError(KpnetError):
    """Raised when a change was made on labels that another page has changed since."""


class ChangedFileError(KpnetError):
    """Raised when another program has changed the file since it was read or written."""


class LabelFile:
    """The labels of a list of images, written to their file after each change.

    A change appears in the file as a whole or not at all, and is on the disk when the call returns. Calls of several
    threads come one after another.

    Args:
        path: The file. It is written at the first change.
        images: Name of each image, relative to the file's folder.
        skeleton: The keypoints. None: those of the file; without one they have to be set before the first change.
        start: Labels, by image, that a file that does not exist yet begins with.

    Attributes:
        path: The file.
        skeleton: The keypoints; None if there are none yet.
        revision: Number of the last change.

    Raises:
        KpnetError: The file is another program's or damaged, or has labels of points that the skeleton lacks.
    """

    def __init__(
        self,
        path: Path,
        images: Sequence[str],
        skeleton: Skeleton | None = None,
        start: Mapping[int, tuple[Instance, ...]] | None = None,
    ) -> None:
        self.path, self.images, self.skeleton = path, tuple(images), skeleton
        self.revision = 0
        self._lock = threading.Lock()
        self._instances: list[tuple[Instance, ...]] = [()] * len(self.images)
        self._others: dict[str, tuple[Instance, ...]] = {}  # of images that are not among these
        self._digest: bytes | None = None  # of the file as it was read or written; None: there is none
        self._stamp: tuple[int, ...] | None = None
        if os.path.lexists(path):
            self._take(self._read())
        else:
            for index, instances in (start or {}).items():
                self._instances[index] = instances
        self._rows = [row_text(name, own) for name, own in zip(self.images, self._instances, strict=True)]

    def __len__(self) -> int:
        return len(self.images)

    def instances(self, index: int) -> tuple[Instance, ...]:
        """Return the instances of an image."""
        return self._instances[index]

    def labelled_counts(self) -> list[int]:
        """Return how many points of each image are labelled, absent ones included; -1 where all of them are."""
        counts = []
        for instances in self._instances:
            counted = [sum(point is not None for point in instance.points) for instance in instances]
            whole = bool(counted) and min(counted) == len(instances[0].points)
            counts.append(-1 if whole else sum(counted))
        return counts

    def put(self, index: int, instances: tuple[Instance, ...], revision: int) -> int:
        """Replace the instances of an image, and write the file.

        Args:
            index: The image.
            instances: Its instances.
            revision: The revision that the change was made on.

        Returns:
            The new revision.

        Raises:
            StaleRevisionError: There is a newer revision.
            ChangedFileError: Another program has changed the file.
            OSError: The file cannot be written; the labels are as before.
        """
        with self._lock:
            if revision != self.revision:
                raise StaleRevisionError(f"{self.path}: changed by another page (revision {self.revision})")
            if self.skeleton is None:
                raise KpnetError("there is no skeleton yet: make one first")
            self._check_unchanged()
            rows = [*self._rows]
            rows[index] = row_text(self.images[index], instances)
            self._write(rows, self.skeleton)
            self._rows, self._instances[index] = rows, instances
            self.revision += 1
            return self.revision

    def set_skeleton(self, skeleton: Skeleton) -> int:
        """Replace the skeleton. Labels keep to their points by name.

        Args:
            skeleton: The new one, with all points that have labels.

        Returns:
            The new revision.

        Raises:
            KpnetError: A point that it lacks has labels, or a name cannot be that of a column.
        """
        with self._lock:
            check_names(skeleton.names)
            self._check_unchanged()
            old = self.skeleton.names if self.skeleton is not None else ()
            every = [*self._instances, *self._others.values()]
            check_kept(str(self.path), old, every, skeleton)
            moved = [reorder_points(instances, old, skeleton.names) for instances in self._instances]
            others = {name: reorder_points(own, old, skeleton.names) for name, own in self._others.items()}
            rows = [row_text(name, own) for name, own in zip(self.images, moved, strict=True)]
            if self._digest is not None or any(rows):
                self._write(rows, skeleton, others)
            self._instances, self._others, self._rows, self.skeleton = moved, others, rows, skeleton
            self.revision += 1
            return self.revision

    def reload(self) -> int:
        """Read the file anew, after another program has changed it, and return the new revision."""
        with self._lock:
            self._take(self._read() if os.path.lexists(self.path) else ((), {}))
            if not os.path.lexists(self.path):
                self._digest = self._stamp = None
            self._rows = [row_text(name, own) for name, own in zip(self.images, self._instances, strict=True)]
            self.revision += 1
            return self.revision

    def continue_beside(self) -> int:
        """Write the labels to a new file beside, which is the file from now on, and return the new revision."""
        with self._lock:
            number = 2
            while os.path.lexists(path := self.path.with_name(f"{self.path.stem}_{number}{self.path.suffix}")):
                number += 1
            old, self.path = self.path, path
            try:
                if self.skeleton is not None:
                    self._write(self._rows, self.skeleton)
            except OSError:
                self.path = old
                raise
            self.revision += 1
            return self.revision

    def _read(self) -> tuple[tuple[str, ...], dict[str, tuple[Instance, ...]]]:
        if not self.path.is_file():
            raise KpnetError(
                f"{self.path}: expected a file of labels, found a folder or a broken link; give another --out"
            )
        stamp = self._stat()
        data = self.path.read_bytes()
        found = parse_table(self.path, data)
        self._digest, self._stamp = hashlib.blake2b(data).digest(), stamp
        return found

    def _take(self, found: tuple[tuple[str, ...], dict[str, tuple[Instance, ...]]]) -> None:
        """Take over what the file holds."""
        names, by_name = found
        if names and self.skeleton is None:
            self.skeleton = Skeleton.of_names(names)
        elif names and self.skeleton is not None:
            check_kept(str(self.path), names, list(by_name.values()), self.skeleton)
        own = names if self.skeleton is None else self.skeleton.names
        taken = {name: reorder_points(instances, names, own) for name, instances in by_name.items()}
        self._instances = [taken.pop(name, ()) for name in self.images]
        self._others = taken

    def _stat(self) -> tuple[int, ...]:
        found = self.path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _check_unchanged(self) -> None:
        """Raise ChangedFileError if the file is not as it was read or written."""
        try:
            stamp: tuple[int, ...] | None = self._stat()
        except FileNotFoundError:
            stamp = None
        if stamp == self._stamp:
            return
        if stamp is not None and hashlib.blake2b(self.path.read_bytes()).digest() == self._digest:
            self._stamp = stamp
            return
        what = "removed" if stamp is None else "changed"
        raise ChangedFileError(f"{self.path}: was {what} by another program")

    def _write(
        self, rows: Sequence[str], skeleton: Skeleton, others: Mapping[str, tuple[Instance, ...]] | None = None
    ) -> None:
        kept = [row_text(name, own) for name, own in (self._others if others is None else others).items()]
        data = "".join([csv_text([column_names(skeleton.names)]), *rows, *kept]).encode("utf-8", "surrogateescape")
        write_atomic(self.path, data)
        self._digest, self._stamp = hashlib.blake2b(data).digest(), self._stat()


def skeleton_path(labels: Path) -> Path:
    """Return the file beside a file of labels that a skeleton made in the page is written to."""
    return labels.with_name(f"{labels.stem}.skeleton.yaml")


def write_skeleton(labels: Path, skeleton: Skeleton) -> Path:
    """Write a skeleton as YAML beside a file of labels, and return its path."""
    path = skeleton_path(labels)
    write_atomic(path, write_yaml(skeleton.to_dict()).encode())
    return path
