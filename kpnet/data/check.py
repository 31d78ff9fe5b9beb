"""Check a dataset: count what is in it, and find what looks wrong, such as swapped left and right keypoints."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kpnet import coordinates
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import KeypointDataset
from kpnet.data.contradictions import find_contradictions
from kpnet.data.formats.image_files import ImageFileDataset
from kpnet.data.formats.instances import InstanceDataset
from kpnet.data.formats.skipped import Skipped
from kpnet.data.hints import describe_dark_images, find_hints
from kpnet.data.images import filled_bits

_DARK = 32  # brightest value, of 255, below which an image is nearly black


@dataclass
class Findings:
    """What `check_data` found.

    Attributes:
        names: Names of the K keypoints.
        samples: Number of samples that could be read.
        images: Number of images that could be read.
        most: Largest number of instances on one image.
        boxes: Number of samples with a box.
        sizes: The smallest and the largest image (W, H), by area; None if no image could be read.
        missing: Number of samples without each keypoint, int (K,).
        hidden: Number of samples in which each keypoint is hidden, int (K,).
        outside: Number of samples in which each keypoint lies outside the image, int (K,).
        outside_samples: Indices of samples with keypoints outside the image.
        skipped: For each instance that the format skipped one line with the reason.
        notes: One line for each oddity of what is used, and for what contradicts itself.
        failed: For each image that could not be read one line with the reason.
        duplicates: Groups of images with the same pixels, by name.
        same_names: Groups of image paths with the same file name.
        suspicious: Samples whose left and right seem swapped: index and what to look at.
        hints: Signs of another convention of the coordinates, or of images that were not read as they should be.
    """

    names: tuple[str, ...]
    samples: int = 0
    images: int = 0
    most: int = 0
    boxes: int = 0
    sizes: tuple[tuple[int, int], tuple[int, int]] | None = None
    missing: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    hidden: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    outside: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    outside_samples: list[int] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)
    same_names: list[list[str]] = field(default_factory=list)
    suspicious: dict[int, str] = field(default_factory=dict)
    hints: list[str] = field(default_factory=list)

    @property
    def unusable(self) -> int:
        """Number of skipped instances and of images that could not be read."""
        return len(self.skipped) + len(self.failed)


def check_data(
    dataset: KeypointDataset,
    progress: Iterable[int] | None = None,
    on_finding: Callable[[str], None] | None = None,
) -> Findings:
    """Read every image of a dataset once, and report what is in it and what looks wrong.

    Args:
        dataset: The dataset, without augmentation.
        progress: The indices of all samples, such as `range(len(dataset))` in a progress bar. None: no progress bar.
        on_finding: Called with a line for each instance that the format skipped, and then for each image that cannot be
            read or looks wrong, in the order of the data and before the next one is read.

    Returns:
        The findings. An image that cannot be read is one of them, not an error.

    Example:
        >>> check_data(COCO("val.json")).missing
        array([0, 3, 1])
    """
    count, points = len(dataset), len(dataset.skeleton)
    found = Findings(dataset.skeleton.names, missing=np.zeros(points, int))
    found.hidden, found.outside = np.zeros(points, int), np.zeros(points, int)
    skipped = getattr(dataset, "skipped", None)
    if isinstance(skipped, Skipped):
        found.skipped, found.notes = list(skipped.messages), list(skipped.notes)
    every = np.full((count, points, 2), np.nan)
    image_sizes = np.zeros((count, 2), int)
    images = _Images(dataset, found.failed, on_finding or (lambda line: None))
    for line in found.skipped:
        images.say(line)
    for index in range(count) if progress is None else progress:
        xy, size = images.look(index)
        if size is None:
            continue
        found.samples += 1
        every[index], image_sizes[index] = xy, size
        labelled = np.isfinite(xy).all(-1)
        beyond = labelled & ~coordinates.inside(xy, size)
        found.missing += ~labelled
        found.hidden += dataset.visibility(index) == 1
        found.outside += beyond
        found.boxes += dataset.box(index) is not None
        if beyond.any():
            found.outside_samples.append(index)
            images.say(f"{dataset.image_name(index)} #{dataset.instance(index)}: {beyond.sum()} points outside")
    read = [size for size in images.sizes.values() if size is not None]
    found.images = len(read)
    found.most = max(Counter(map(dataset.image_name, range(count))).values(), default=0)
    if read:
        low, high = min(read, key=np.prod), max(read, key=np.prod)
        found.sizes = (low[1], low[0]), (high[1], high[0])
    found.duplicates = list(images.duplicates.values())
    found.same_names = _same_names(images.sizes)
    found.suspicious = find_swapped_sides(every, dataset.skeleton)
    found.notes += find_contradictions(dataset, every)
    found.hints = find_hints(dataset, every, image_sizes)
    found.hints += describe_dark_images(dataset, images.constant, images.dark, images.deep)
    return found


class _Images:
    """Reads each image of a dataset once, and notes what is odd about it; no pixels are kept.

    Attributes:
        say: Called with a line as soon as something is found.
        sizes: Height and width of each image by name; None if it could not be read.
        constant: Names of images of a single value.
        dark: Names of images that are nearly black.
        deep: Names of such images of 16 bits, and how many bits their values fill.
        duplicates: Names of images with the same pixels, by a digest of these.
    """

    def __init__(self, dataset: KeypointDataset, failed: list[str], say: Callable[[str], None]) -> None:
        self.dataset, self.failed, self.say = dataset, failed, say
        self.sizes: dict[str, tuple[int, int] | None] = {}
        self.constant: list[str] = []
        self.dark: list[str] = []
        self.deep: dict[str, int] = {}
        self.duplicates: dict[bytes, list[str]] = {}
        self._first: dict[bytes, str] = {}  # image with these pixels

    def look(self, index: int) -> tuple[np.ndarray, tuple[int, int] | None]:
        """Return a sample's keypoints (K, 2), and its image's height and width; None if it cannot be read."""
        name = self.dataset.image_name(index)
        if name in self.sizes and isinstance(self.dataset, InstanceDataset):
            return self.dataset.keypoints(index), self.sizes[name]
        try:
            image, xy = self.dataset.read(index)
        except (KpnetError, OSError, MemoryError) as error:
            self.failed.append(str(error) or f"{name}: {type(error).__name__}")
            self.say(self.failed[-1])
            self.sizes[name] = None
            return np.zeros((0, 2)), None
        self.sizes[name] = image.shape[0], image.shape[1]
        self._compare(name, image)
        self._measure(index, name, image)
        return xy, self.sizes[name]

    def _measure(self, index: int, name: str, image: np.ndarray) -> None:
        brightest = int(image.max())
        if brightest < _DARK and (bits := _filled_bits(self.dataset, index)) is not None:
            self.deep[name] = bits
            self.say(f"{name}: nearly black; its values fill {bits} of 16 bits")
        elif brightest - int(image.min()) <= 1:
            self.constant.append(name)
            self.say(f"{name}: a single value everywhere")
        elif brightest < _DARK:
            self.dark.append(name)
            self.say(f"{name}: nearly black")

    def _compare(self, name: str, image: np.ndarray) -> None:
        digest = hashlib.blake2b(image.tobytes(), digest_size=16, key=str(image.shape).encode()).digest()
        first = self._first.setdefault(digest, name)
        if first != name:
            self.duplicates.setdefault(digest, [first]).append(name)
            self.say(f"{name}: the same pixels as {first}")


def _filled_bits(dataset: KeypointDataset, index: int) -> int | None:
    """Return how many bits the values of a sample's image fill; None for an image of 8 bits."""
    return filled_bits(dataset.path(index)) if isinstance(dataset, ImageFileDataset) else None


def _same_names(paths: Iterable[str]) -> list[list[str]]:
    """Return groups of paths that have the same file name in different folders."""
    named: defaultdict[str, list[str]] = defaultdict(list)
    for path in paths:
        named[Path(path).name].append(path)
    return [group for group in named.values() if len(group) > 1]


# A sample is suspicious if its distance from the common shape is over _FAR times the median distance, and swapping left
# and right leaves less than _REDUCED of it.
_FAR = 4.0
_REDUCED = 0.4
_RARE = 0.02  # share of the samples that may have one pair swapped; limbs that cross are swapped in more


def find_swapped_sides(xy: np.ndarray, skeleton: Skeleton) -> dict[int, str]:
    """Detect swapped left and right keypoints.

    A sample is suspicious if it fits the common shape far better with all pairs swapped, or if a pair points the
    opposite way from nearly all other samples. Shapes are compared up to position, scale and rotation (Procrustes
    analysis) but not up to reflection, so that an animal may face any direction.

    Args:
        xy: Keypoints (N, K, 2) in pixels, NaN where absent.
        skeleton: The keypoints, whose left/right pairs are compared.

    Returns:
        For each suspicious sample its index and what to look at.
    """
    if not skeleton.pairs or len(skeleton) < 3 or len(xy) < 3:
        return {}
    points = xy[..., 0] + 1j * xy[..., 1]
    shape = common_shape(points)
    as_is, swapped = _distance(points, shape), _distance(points[:, skeleton.flip_permutation], shape)
    known = as_is[np.isfinite(as_is)]
    if not len(known):
        return {}
    with np.errstate(invalid="ignore"):
        whole = (as_is > _FAR * np.median(known) + 1e-6) & (swapped < _REDUCED * as_is)
    found = dict.fromkeys(np.flatnonzero(whole).tolist(), "left and right may be swapped")
    aligned = align_to_shape(points, shape)
    for a, b in skeleton.pairs:
        left, right = skeleton.names.index(a), skeleton.names.index(b)
        usual = shape[left] - shape[right]
        with np.errstate(invalid="ignore"):
            along = ((aligned[:, left] - aligned[:, right]) * np.conj(usual)).real / np.abs(usual) ** 2
            opposite = (along < -0.5) & ~whole
        if opposite.any() and opposite.sum() <= max(1, _RARE * np.isfinite(along).sum()):
            for index in np.flatnonzero(opposite).tolist():
                found[index] = f"{found[index]}, {a} and {b}" if index in found else f"swapped? {a} and {b}"
    return found


def common_shape(points: np.ndarray) -> np.ndarray:
    """Return the median shape of samples that are aligned to one another by similarity transforms.

    Args:
        points: Points (N, K) as complex numbers x + iy, NaN where absent.

    Returns:
        Complex (K,), NaN for a point that no sample has.
    """
    shape = points[np.isfinite(points).sum(1).argmax()]
    for _ in range(4):
        aligned = align_to_shape(points, shape)
        with np.errstate(invalid="ignore"):
            known = np.isfinite(aligned)
            some = known.any(0)
            shape = np.full(len(shape), np.nan, complex)
            shape[some] = np.nanmedian(aligned.real[:, some], 0) + 1j * np.nanmedian(aligned.imag[:, some], 0)
    return shape


def align_to_shape(points: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Return samples moved, scaled and rotated onto a shape.

    Args:
        points: Points (N, K) as complex numbers x + iy, NaN where absent.
        shape: Complex (K,).

    Returns:
        Complex (N, K), NaN where absent and for samples with under 3 points.
    """
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
    """Return the mean squared distance (N,) from the shape, relative to the shape's variance over the same points."""
    aligned = align_to_shape(points, shape)
    known = np.isfinite(aligned) & np.isfinite(shape)
    count = np.maximum(known.sum(1), 1)
    target = np.where(known, shape, 0)
    variance = (np.abs(np.where(known, target - target.sum(1, keepdims=True) / count[:, None], 0)) ** 2).sum(1)
    rest = (np.abs(np.where(known, aligned - shape, 0)) ** 2).sum(1)
    distance: np.ndarray = np.where(known.sum(1) >= 3, rest / np.where(variance > 0, variance, np.nan), np.nan)
    return distance
