"""How far two people's labels of the same images are apart, and how a model's errors compare with that."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from kpnet.core.errors import KpnetError, few
from kpnet.data import KeypointDataset
from kpnet.data.formats.instances import PROPOSED, SOURCES
from kpnet.data.formats.writing import sample_points, sample_sources

RESAMPLES = 2000
LEVEL = 0.95
_READ = 20  # images that are compared
_LEAST_POINTS = 3  # whose box says how large an instance is; that of two points may be as thin as a line


@dataclass(frozen=True)
class Distance:
    """A mean distance, with the bootstrap interval of it over images.

    Attributes:
        mean: The mean; NaN where there is nothing to average.
        low: Lower end of the 95 % interval.
        high: Its upper end.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PointAgreement:
    """What two people agree on for one keypoint, or for all of them.

    Attributes:
        name: The keypoint; "all" for all of them.
        labels: Number of instances in which both placed it.
        alone: Number of instances in which only one of them did.
        pixels: Distance between the two, in pixels of the image.
        share: The same as a share of the instance's size.
        sigma: The constant of the object keypoint similarity that follows: the root mean square of `share`.
        model: A model's mean distance from both people's labels divided by the distance between the two, if measured;
            NaN where these are the same.
    """

    name: str
    labels: int
    alone: int
    pixels: Distance
    share: Distance
    sigma: float
    model: Distance | None = None


@dataclass(frozen=True)
class Agreement:
    """The agreement of two people.

    Attributes:
        images: Number of images that both labelled.
        instances: Number of instances that are in both.
        size: What `share` divides by: "box", or "points" for the box around the points of both.
        points: One entry for each keypoint that both label.
        overall: The entry of all keypoints together.
        notes: What was not compared, one line for each reason.
    """

    images: int
    instances: int
    size: str
    points: list[PointAgreement]
    overall: PointAgreement
    notes: list[str]


@dataclass(frozen=True)
class MatchedLabels:
    """The labels that two people gave the same M instances, for the K keypoints that both have.

    Attributes:
        names: Names of the keypoints.
        first: The first one's points, float64 (M, K, 2) in pixels, NaN where absent.
        second: The second one's.
        image: The number of each instance's image, int (M,).
        length: The size of each instance in pixels, float64 (M,): the root of the area of its box; NaN where it has no
            box and fewer than 3 points.
        by: What the size is of: "box" or "points".
        indices: The indices of each instance in the two datasets, int (M, 2).
        notes: What was not matched.
    """

    names: tuple[str, ...]
    first: np.ndarray
    second: np.ndarray
    image: np.ndarray
    length: np.ndarray
    by: str
    indices: np.ndarray
    notes: list[str]


def match_labels(first: KeypointDataset, second: KeypointDataset) -> MatchedLabels:
    """Match two people's labels by the names of images and points.

    Images are matched by their whole names, or, where none is in both, by the names of their files without folders. The
    instances of an image are paired so that the mean distance between their points is the smallest. Points that either
    file states to be proposed by a model, or copied, and that nobody moved are not compared: they are not a person's.

    Args:
        first: One person's labels.
        second: The other's.

    Returns:
        The labels that both have.

    Raises:
        KpnetError: No image, no point, or no labelled point of a person is in both.
    """
    names = tuple(name for name in first.skeleton.names if name in second.skeleton.names)
    if not names:
        raise KpnetError(
            f"no point is in both: {few(first.skeleton.names)} and {few(second.skeleton.names)}; the points are "
            "matched by name"
        )
    notes = []
    for which, data in (("first", first), ("second", second)):
        others = [name for name in data.skeleton.names if name not in names]
        notes += [f"not compared, as only the {which} has it: {few(others)}"] if others else []
    places, alone = _shared_images(first, second)
    notes += [f"{alone} images are in one of the two only"] if alone else []
    _check_same_images(first, second, places)
    pairs, image, left = [], [], 0
    points = [_points(data, names) for data in (first, second)]
    for number, (ours, theirs) in enumerate(places):
        matched = _pair(points[0][ours], points[1][theirs])
        pairs += [(ours[a], theirs[b]) for a, b in matched]
        image += [number] * len(matched)
        left += len(ours) + len(theirs) - 2 * len(matched)
    notes += [f"{left} instances are in one of the two only"] if left else []
    if not pairs:
        raise KpnetError(f"nothing to compare: no point has a label in both, in the {len(places)} images of both")
    indices = np.array(pairs)
    xy = [points[side][indices[:, side]] for side in (0, 1)]
    length, by = _lengths(first, indices[:, 0], *xy)
    proposed = np.logical_or(*(_proposed(data, indices[:, side], names) for side, data in enumerate((first, second))))
    proposed &= np.isfinite(xy).all(-1).any(0)
    if count := int(proposed.sum()):
        notes.append(f"not compared, as a model proposed them in one of the two or both: {count} points")
        for each in xy:
            each[proposed] = np.nan
    both = np.isfinite(xy).all((0, 3)).any(-1)
    if not both.any():
        raise KpnetError("nothing to compare: a model proposed every point that has a label in both")
    return MatchedLabels(names, xy[0][both], xy[1][both], np.array(image)[both], length[both], by, indices[both], notes)


def measure_agreement(labels: MatchedLabels, predicted: np.ndarray | None = None) -> Agreement:
    """Measure how far two people's labels are apart.

    Args:
        labels: The labels.
        predicted: A model's points for the same instances (M, K, 2) in pixels, whose distances from both people's
            labels are averaged. None: no model.

    Returns:
        The distances, with intervals from 2000 resamples of the images. In a `model` of 1, the model's points are as
        far from a person's as another person's are.

    Example:
        >>> measure_agreement(match_labels(PointsCSV("ann.csv"), PointsCSV("ben.csv"))).overall.pixels
        Distance(mean=1.9, low=1.7, high=2.1)
    """
    apart = np.linalg.norm(labels.first - labels.second, axis=-1)
    share = apart / labels.length[:, None]
    model = None
    if predicted is not None:
        both = np.stack([np.linalg.norm(predicted - each, axis=-1) for each in (labels.first, labels.second)])
        model = both.mean(0)
    weights = _resamples(labels.image)
    placed = [np.isfinite(each).all(-1) for each in (labels.first, labels.second)]
    one = placed[0] ^ placed[1]

    def entry(name: str, columns: slice | list[int]) -> PointAgreement:
        part, parts = apart[:, columns], share[:, columns]
        return PointAgreement(
            name,
            int(np.isfinite(part).sum()),
            int(one[:, columns].sum()),
            _mean(part, weights, labels.image),
            _mean(parts, weights, labels.image),
            float(np.sqrt(np.nanmean(parts**2))) if np.isfinite(parts).any() else float("nan"),
            None if model is None else _ratio(model[:, columns], part, weights, labels.image),
        )

    rows = [entry(name, [k]) for k, name in enumerate(labels.names)]
    images = len(np.unique(labels.image))
    return Agreement(images, len(labels.first), labels.by, rows, entry("all", slice(None)), labels.notes)


def _points(data: KeypointDataset, names: Sequence[str]) -> np.ndarray:
    """Return the points (N, K, 2) of these names."""
    order = [data.skeleton.names.index(name) for name in names]
    return np.stack([sample_points(data, index)[order] for index in range(len(data))])


def _proposed(data: KeypointDataset, indices: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return which of the points (M, K) of these samples and names are stated to be proposed."""
    order = [data.skeleton.names.index(name) for name in names]
    stated = [sample_sources(data, int(index)) for index in indices]
    none = np.zeros(len(names), bool)
    return np.stack([none if each is None else each[order] == SOURCES.index(PROPOSED) for each in stated])


def _shared_images(first: KeypointDataset, second: KeypointDataset) -> tuple[list[tuple[list[int], list[int]]], int]:
    """Return the indices of the samples of each image in both, and the number of images in one of the two only."""
    for shorten in (str, lambda name: Path(name.replace("\\", "/")).name):
        groups: list[defaultdict[str, list[int]]] = []
        clear = True
        for data in (first, second):
            group: defaultdict[str, list[int]] = defaultdict(list)
            keys: defaultdict[str, set[str]] = defaultdict(set)
            for index in range(len(data)):
                name = data.image_name(index)
                group[shorten(name)].append(index)
                keys[shorten(name)].add(name)
            clear &= all(len(whole) == 1 for whole in keys.values())
            groups.append(group)
        shared = [(groups[0][name], groups[1][name]) for name in groups[0] if name in groups[1]]
        if shared and not clear:
            raise KpnetError(
                "images of one name are in several folders, and the two files name the folders differently; "
                "give the images the same names in both"
            )
        if shared:
            return shared, len(groups[0]) + len(groups[1]) - 2 * len(shared)
    found = [few(dict.fromkeys(map(data.image_name, range(len(data)))), 3) for data in (first, second)]
    raise KpnetError(f"no image is in both: {found[0]}, and {found[1]}; the images are matched by name")


def _check_same_images(
    first: KeypointDataset, second: KeypointDataset, places: list[tuple[list[int], list[int]]]
) -> None:
    """Raise if images of one name differ, as where the names are only the numbers of rows; some of them are read."""
    for ours, theirs in places[:: max(1, len(places) // _READ)]:
        one, other = first.read(ours[0])[0], second.read(theirs[0])[0]
        name = first.image_name(ours[0])
        if one.shape[:2] != other.shape[:2]:
            sizes = " and ".join(f"{image.shape[1]}x{image.shape[0]}" for image in (one, other))
            raise KpnetError(f"image {name} has {sizes} pixels in the two; expected the same images in both")
        in_tables = first.image_file(ours[0]) is None and second.image_file(theirs[0]) is None
        if in_tables and one.shape == other.shape and not np.array_equal(one, other):
            raise KpnetError(f"image {name} has other pixels in the two; expected the same images under the same names")


def _pair(ours: np.ndarray, theirs: np.ndarray) -> list[tuple[int, int]]:
    """Pair the instances (A, K, 2) and (B, K, 2) of an image; those that share no labelled point stay alone."""
    apart = np.linalg.norm(ours[:, None] - theirs[None], axis=-1)
    known = np.isfinite(apart)
    cost = np.where(known, apart, 0).sum(-1) / np.maximum(known.sum(-1), 1)
    far = 1 + 2 * cost.max(initial=0) * max(cost.shape)
    cost = np.where(known.any(-1), cost, far)
    return [(a, b) for a, b in zip(*linear_sum_assignment(cost), strict=True) if known[a, b].any()]


def _lengths(data: KeypointDataset, indices: np.ndarray, *xy: np.ndarray) -> tuple[np.ndarray, str]:
    """Return the size (M,) of each instance: of its box, or of the boxes around both people's points."""
    boxes = [data.box(int(index)) for index in indices]
    if all(box is not None for box in boxes):
        edges = np.stack([box for box in boxes if box is not None])
        return np.sqrt((edges[:, 2:] - edges[:, :2]).prod(-1)), "box"
    every = np.concatenate(xy, axis=1)
    low = np.where(np.isfinite(every), every, np.inf).min(1)
    high = np.where(np.isfinite(every), every, -np.inf).max(1)
    length = np.sqrt((high - low).prod(-1))
    placed = np.any([np.isfinite(each).all(-1) for each in xy], axis=0).sum(1)
    return np.where((length > 0) & (placed >= _LEAST_POINTS), length, np.nan), "points"


def _resamples(image: np.ndarray) -> np.ndarray:
    """Return how often each image is drawn in each resample, int (R, I)."""
    count = len(np.unique(image))
    return np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)


def _sums(values: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum and the number of the finite values (M, K) of each image, float64 (I,) both."""
    number = np.unique(image, return_inverse=True)[1]
    known = np.isfinite(values)
    total = np.bincount(number, np.where(known, values, 0).sum(1))
    return total, np.bincount(number, known.sum(1).astype(float))


def _interval(mean: float, drawn: np.ndarray) -> Distance:
    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return Distance(mean, float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Distance(mean, float(low), float(high))


def _mean(values: np.ndarray, weights: np.ndarray, image: np.ndarray) -> Distance:
    total, count = _sums(values, image)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _interval(float(total.sum() / count.sum()), (weights @ total) / (weights @ count))


def _ratio(values: np.ndarray, by: np.ndarray, weights: np.ndarray, image: np.ndarray) -> Distance:
    """Return the ratio of two means over the points that have both."""
    both = np.isfinite(values) & np.isfinite(by)
    above, _ = _sums(np.where(both, values, np.nan), image)
    below, _ = _sums(np.where(both, by, np.nan), image)
    if not below.any():
        return Distance(float("nan"), float("nan"), float("nan"))
    with np.errstate(invalid="ignore", divide="ignore"):
        return _interval(float(above.sum() / below.sum()), (weights @ above) / (weights @ below))
