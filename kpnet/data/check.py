"""Read every sample of a dataset, and say what is in it and what looks wrong."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kpnet import coordinates
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import KeypointDataset
from kpnet.data.formats.instances import InstanceDataset


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
    found.suspicious = find_swapped_sides(every, dataset.skeleton)
    return found


def _same_names(paths: Iterable[str]) -> list[list[str]]:
    """Those of different folders with one file name."""
    named: defaultdict[str, list[str]] = defaultdict(list)
    for path in paths:
        named[Path(path).name].append(path)
    return [group for group in named.values() if len(group) > 1]


_ODD = 4.0  # times the median distance from the common shape, at least, makes a sample worth a look
_BETTER = 0.4  # of that distance, at most, is left once sides are swapped
_RARE = 0.02  # of the samples may have a pair the other way round; of limbs that cross, more have


def find_swapped_sides(xy: np.ndarray, skeleton: Skeleton) -> dict[int, str]:
    """Index and what to look at, of samples (N, K, 2) whose left and right seem swapped.

    Either they fit the shape that most have far better with all pairs swapped, or single pairs point the other way
    round than in nearly all others. Shapes are compared up to place, scale and rotation, but not up to a mirror, so
    an animal may look any way.
    """
    if not skeleton.pairs or len(skeleton) < 3 or len(xy) < 3:
        return {}
    points = xy[..., 0] + 1j * xy[..., 1]
    shape = _common_shape(points)
    as_is, swapped = _distance(points, shape), _distance(points[:, skeleton.flip_permutation], shape)
    known = as_is[np.isfinite(as_is)]
    if not len(known):
        return {}
    with np.errstate(invalid="ignore"):
        whole = (as_is > _ODD * np.median(known) + 1e-6) & (swapped < _BETTER * as_is)
    found = dict.fromkeys(np.flatnonzero(whole).tolist(), "left and right may be swapped")
    aligned = _align(points, shape)
    for a, b in skeleton.pairs:
        left, right = skeleton.names.index(a), skeleton.names.index(b)
        usual = shape[left] - shape[right]
        with np.errstate(invalid="ignore"):
            along = ((aligned[:, left] - aligned[:, right]) * np.conj(usual)).real / np.abs(usual) ** 2
            turned = (along < -0.5) & ~whole
        if turned.any() and turned.sum() <= max(1, _RARE * np.isfinite(along).sum()):
            for index in np.flatnonzero(turned).tolist():
                found[index] = f"{found[index]}, {a} and {b}" if index in found else f"swapped? {a} and {b}"
    return found


def _common_shape(points: np.ndarray) -> np.ndarray:
    """Complex (K,): the median of the samples, each turned, scaled and moved onto it; NaN for a point none has."""
    shape = points[np.isfinite(points).sum(1).argmax()]
    for _ in range(4):
        aligned = _align(points, shape)
        with np.errstate(invalid="ignore"):
            known = np.isfinite(aligned)
            some = known.any(0)
            shape = np.full(len(shape), np.nan, complex)
            shape[some] = np.nanmedian(aligned.real[:, some], 0) + 1j * np.nanmedian(aligned.imag[:, some], 0)
    return shape


def _align(points: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Points (N, K) under the similarity that brings each sample nearest to the shape; NaN with under 3 points."""
    known = np.isfinite(points) & np.isfinite(shape)
    count = np.maximum(known.sum(1, keepdims=True), 1)
    z = np.where(known, points, 0)
    target = np.where(known, shape, 0)
    middle, goal = z.sum(1, keepdims=True) / count, target.sum(1, keepdims=True) / count
    z, target = np.where(known, z - middle, 0), np.where(known, target - goal, 0)
    power = (np.abs(z) ** 2).sum(1, keepdims=True)
    usable = (power > 0) & (known.sum(1, keepdims=True) >= 3)
    factor = (z.conj() * target).sum(1, keepdims=True) / np.where(usable, power, 1)
    aligned: np.ndarray = np.where(usable & np.isfinite(points), factor * (points - middle) + goal, np.nan)
    return aligned


def _distance(points: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Mean squared distance (N,) from the shape, as a share of the shape's own spread over the same points."""
    aligned = _align(points, shape)
    known = np.isfinite(aligned) & np.isfinite(shape)
    count = np.maximum(known.sum(1), 1)
    target = np.where(known, shape, 0)
    spread = (np.abs(np.where(known, target - target.sum(1, keepdims=True) / count[:, None], 0)) ** 2).sum(1)
    rest = (np.abs(np.where(known, aligned - shape, 0)) ** 2).sum(1)
    distance: np.ndarray = np.where(known.sum(1) >= 3, rest / np.where(spread > 0, spread, np.nan), np.nan)
    return distance
