"""Read every sample of a dataset, and say what is in it and what looks wrong."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kpnet import coordinates
from kpnet.data.base import KeypointDataset
from kpnet.data.instances import InstanceDataset
from kpnet.data.sides import suspicious_sides
from kpnet.errors import KpnetError


@dataclass
class Findings:
    """What `check_data` found. Counts (K,) are over the samples that were read; indices are the dataset's."""

    names: tuple[str, ...]
    samples: int = 0
    images: int = 0
    most: int = 0  # instances on one image
    boxes: int = 0
    sizes: tuple[tuple[int, int], tuple[int, int]] | None = None  # smallest and largest (W, H), by area
    missing: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    hidden: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    outside: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    outside_samples: list[int] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # by the format
    failed: list[str] = field(default_factory=list)  # images that could not be read
    duplicates: list[list[str]] = field(default_factory=list)  # names of images with the same pixels
    same_names: list[list[str]] = field(default_factory=list)  # paths with the same file name
    suspicious: dict[int, str] = field(default_factory=dict)  # left and right

    @property
    def unusable(self) -> int:
        """Samples left out, and images that could not be read."""
        return len(self.left_out) + len(self.failed)


def check_data(dataset: KeypointDataset, progress: Iterable[int] | None = None) -> Findings:
    """Reads every image once. progress: the indices, wrapped in a progress bar."""
    count, points = len(dataset), len(dataset.skeleton)
    found = Findings(dataset.skeleton.names, missing=np.zeros(points, int))
    found.hidden, found.outside = np.zeros(points, int), np.zeros(points, int)
    found.left_out = list(dataset.skipped.messages) if isinstance(dataset, InstanceDataset) else []
    every = np.full((count, points, 2), np.nan)
    sizes: dict[str, tuple[int, int] | None] = {}  # of each image; None: it could not be read
    pixels: defaultdict[bytes, list[str]] = defaultdict(list)
    for index in range(count) if progress is None else progress:
        name = dataset.image_name(index)
        if name in sizes and isinstance(dataset, InstanceDataset):
            xy = dataset.keypoints(index)
        else:
            try:
                image, xy = dataset.read(index)
            except KpnetError as error:
                found.failed.append(str(error))
                sizes[name] = None
                continue
            sizes[name] = (image.shape[0], image.shape[1])
            digest = hashlib.blake2b(image.tobytes(), digest_size=16, key=str(image.shape).encode()).digest()
            pixels[digest].append(name)
        size = sizes[name]
        if size is None:
            continue
        found.samples += 1
        every[index] = xy
        labelled = np.isfinite(xy).all(-1)
        beyond = labelled & ~coordinates.inside(xy, size)
        found.missing += ~labelled
        found.hidden += dataset.visibility(index) == 1
        found.outside += beyond
        found.boxes += dataset.box(index) is not None
        if beyond.any():
            found.outside_samples.append(index)
    read = [size for size in sizes.values() if size is not None]
    found.images = len(read)
    found.most = max(Counter(map(dataset.image_name, range(count))).values(), default=0)
    if read:
        low, high = min(read, key=np.prod), max(read, key=np.prod)
        found.sizes = (low[1], low[0]), (high[1], high[0])
    found.duplicates = [names for names in pixels.values() if len(set(names)) > 1]
    found.same_names = _same_names(sizes)
    found.suspicious = suspicious_sides(every, dataset.skeleton)
    return found


def _same_names(paths: Iterable[str]) -> list[list[str]]:
    """Those of different folders with one file name."""
    named: defaultdict[str, list[str]] = defaultdict(list)
    for path in paths:
        named[Path(path).name].append(path)
    return [group for group in named.values() if len(group) > 1]
