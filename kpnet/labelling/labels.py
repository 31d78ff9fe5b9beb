"""The file of labels that `kpnet label` writes."""

from __future__ import annotations

import csv
import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kpnet.core.errors import KpnetError
from kpnet.core.files import write_atomic
from kpnet.core.skeleton import Skeleton
from kpnet.core.yaml import write_yaml
from kpnet.labelling.label_coco import CocoEntries, has_label_mark
from kpnet.labelling.label_rows import (
    CsvRows,
    Encoding,
    Entry,
    Instance,
    check_kept,
    check_names,
    names_of,
    reorder_points,
)


def encoding_of(path: Path) -> Encoding:
    """Return how labels are written into a file: points CSV, or COCO JSON if its name ends in .json.

    Args:
        path: The file, which need not exist.

    Raises:
        KpnetError: Its name has another ending, or its folder does not exist.
    """
    if path.suffix.lower() not in (".csv", ".json"):
        raise KpnetError(f"{path}: expected a file of labels that ends in .csv or .json (COCO); give --out labels.csv")
    if not path.parent.is_dir():
        raise KpnetError(f"{path}: there is no folder {path.parent}; make it, or give another --out")
    return CsvRows() if path.suffix.lower() == ".csv" else CocoEntries(path.parent)


def is_label_file(path: Path) -> bool:
    """Return whether a file looks as `kpnet label` writes it: by its header, or by its mark."""
    try:
        if path.suffix.lower() == ".json":
            return has_label_mark(path)
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            return names_of(next(csv.reader(file), [])) is not None
    except (OSError, csv.Error):
        return False


def read_labels(path: Path) -> tuple[Skeleton, dict[str, tuple[Instance, ...]]]:
    """Read a file that `kpnet label` wrote.

    Args:
        path: The file.

    Returns:
        The keypoints, and the instances of each image by its name in the file.

    Raises:
        KpnetError: It is no such file, or a part of it is damaged.
    """
    content = read_content(path)
    return content.skeleton, content.instances


@dataclass(frozen=True)
class Content:
    """A file of labels as it was read.

    Attributes:
        path: The file.
        digest: Of its bytes.
        stamp: Of the file's state, which changes with it.
        encoding: How it is written.
        skeleton: The keypoints.
        instances: Instances of each image, by its name.
    """

    path: Path
    digest: bytes
    stamp: tuple[int, ...]
    encoding: Encoding
    skeleton: Skeleton
    instances: dict[str, tuple[Instance, ...]]


def read_content(path: Path, known: Content | None = None) -> Content:
    """Read a file that `kpnet label` wrote.

    Args:
        path: The file.
        known: What was read earlier; a file with the same bytes is not parsed again.

    Returns:
        What it holds.

    Raises:
        KpnetError: It is no such file, or a part of it is damaged.
    """
    if not path.is_file():
        raise KpnetError(f"{path}: expected a file of labels, found a folder or a broken link; give another --out")
    stamp, data = _stamp_of(path), path.read_bytes()
    digest = hashlib.blake2b(data).digest()
    if known is not None and (known.path, known.digest) == (path, digest):
        return replace(known, stamp=stamp)
    encoding = encoding_of(path)
    return Content(path, digest, stamp, encoding, *encoding.parse(path, data))


def _stamp_of(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


class StaleRevisionError(KpnetError):
    """Raised when a change was made on labels that another page has changed since."""


class ChangedFileError(KpnetError):
    """Raised when another program has changed the file since it was read or written."""


class LabelFile:
    """The labels of a list of images, written to their file after each change.

    A change appears in the file as a whole or not at all, and is on the disk when the call returns. Calls of several
    threads come one after another.

    Args:
        path: The file, .csv or .json. It is written at the first change.
        images: Name of each image, relative to the file's folder.
        skeleton: The keypoints. None: those of the file; without one they have to be set before the first change.
        start: Labels, by image, that a file that does not exist yet begins with.
        known: What was read of the file earlier; it is parsed again only if it has changed.

    Attributes:
        path: The file.
        skeleton: The keypoints; None if there are none yet.
        encoding: How it is written.
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
        known: Content | None = None,
    ) -> None:
        if skeleton is not None:
            check_names(skeleton.names)
        self.path, self.images, self.skeleton = path, tuple(images), skeleton
        self.encoding = encoding_of(path)
        self.revision = 0
        self._lock = threading.Lock()
        self._entries = [Entry()] * len(self.images)
        self._others: dict[str, Entry] = {}  # of images that are not among these
        self._digest: bytes | None = None  # of the file as it was read or written; None: there is none
        self._stamp: tuple[int, ...] | None = None
        if os.path.lexists(path):
            self._take(read_content(path, known))
        else:
            for index, instances in (start or {}).items():
                self._entries[index] = _entry(self.encoding, self.images[index], tuple(instances))

    def __len__(self) -> int:
        return len(self.images)

    def instances(self, index: int) -> tuple[Instance, ...]:
        """Return the instances of an image."""
        return self._entries[index].instances

    def snapshot(self) -> tuple[Skeleton | None, list[tuple[Instance, ...]]]:
        """Return the skeleton and the instances of each image, both of one revision."""
        with self._lock:
            return self.skeleton, [entry.instances for entry in self._entries]

    def labelled_counts(self) -> list[int]:
        """Return how many points of each image are labelled, absent ones included; -1 where all of them are."""
        counts = []
        for instances, _ in self._entries:
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
            entries = [*self._entries]
            entries[index] = _entry(self.encoding, self.images[index], instances)
            self._write(entries, self._others, self.skeleton)
            self._entries = entries
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
            every = [entry.instances for entry in (*self._entries, *self._others.values())]
            check_kept(str(self.path), old, every, skeleton)

            def moved(name: str, entry: Entry) -> Entry:
                return _entry(self.encoding, name, reorder_points(entry.instances, old, skeleton.names))

            entries = [moved(name, entry) for name, entry in zip(self.images, self._entries, strict=True)]
            others = {name: moved(name, entry) for name, entry in self._others.items()}
            if self._digest is not None or any(entry.lines for entry in entries):
                self._write(entries, others, skeleton)
            self._entries, self._others, self.skeleton = entries, others, skeleton
            self.revision += 1
            return self.revision

    def reload(self) -> int:
        """Read the file anew, after another program has changed it, and return the new revision."""
        with self._lock:
            if os.path.lexists(self.path):
                self._take(read_content(self.path))
            else:
                self.encoding = encoding_of(self.path)
                self._entries, self._others = [Entry()] * len(self.images), {}
                self._digest = self._stamp = None
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
                    self._write(self._entries, self._others, self.skeleton)
            except OSError:
                self.path = old
                raise
            self.revision += 1
            return self.revision

    def _take(self, content: Content) -> None:
        """Take over what the file holds, or nothing of it if it does not fit."""
        own, encoding = self.skeleton or content.skeleton, content.encoding
        check_kept(str(self.path), content.skeleton.names, list(content.instances.values()), own)
        taken = {
            name: _entry(encoding, name, reorder_points(instances, content.skeleton.names, own.names))
            for name, instances in content.instances.items()
        }
        self._entries = [taken.pop(name, Entry()) for name in self.images]
        self._others, self.skeleton, self.encoding = taken, own, encoding
        self._digest, self._stamp = content.digest, content.stamp

    def _check_unchanged(self) -> None:
        """Raise ChangedFileError if the file is not as it was read or written."""
        try:
            stamp: tuple[int, ...] | None = _stamp_of(self.path)
        except FileNotFoundError:
            stamp = None
        if stamp == self._stamp:
            return
        if stamp is not None and hashlib.blake2b(self.path.read_bytes()).digest() == self._digest:
            self._stamp = stamp
            return
        what = "removed" if stamp is None else "changed"
        raise ChangedFileError(f"{self.path}: was {what} by another program")

    def _write(self, entries: Sequence[Entry], others: Mapping[str, Entry], skeleton: Skeleton) -> None:
        every = [*zip(self.images, entries, strict=True), *others.items()]
        data = self.encoding.text(every, skeleton).encode("utf-8", "surrogateescape")
        write_atomic(self.path, data)
        self._digest, self._stamp = hashlib.blake2b(data).digest(), _stamp_of(self.path)


def _entry(encoding: Encoding, name: str, instances: tuple[Instance, ...]) -> Entry:
    return Entry(instances, encoding.lines(name, instances))


def skeleton_path(labels: Path) -> Path:
    """Return the file beside a file of labels that a skeleton made in the page is written to."""
    return labels.with_name(f"{labels.stem}.skeleton.yaml")


def write_skeleton(labels: Path, skeleton: Skeleton) -> Path:
    """Write a skeleton as YAML beside a file of labels, and return its path."""
    path = skeleton_path(labels)
    write_atomic(path, write_yaml(skeleton.to_dict()).encode())
    return path
