"""Augmentation with albumentations' transforms, whose effect on keypoints is computed here.

albumentations changes the image only. The parameters that it drew are converted to a 3x3 matrix from pixels to pixels
(centres at integers), which moves the points in float64. So none of its keypoint conventions matter (scaling from the
corner, dropped or reflected points, float32), and a negative determinant shows that the image was mirrored and that
left and right labels have to swap.
"""

from __future__ import annotations

import inspect
import os
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import cv2
import numpy as np
from pydantic import ValidationError

from kpnet.coordinates import inside_box
from kpnet.core.errors import KpnetError, did_you_mean, show
from kpnet.core.skeleton import Skeleton
from kpnet.data.transforms.matrices import GEOMETRIC, Matrix, mirrors, project, resize

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # otherwise the import looks for a newer version online
import albumentations as A

Spec = str | Mapping[str, Any]

ERASING = ("CoarseDropout", "Erasing", "GridDropout", "PixelDropout", "XYMasking", "NoOp")
"""Transforms that hide parts of the image and move nothing. A keypoint under a hole is visible, but not present."""

MIRRORS = ("HorizontalFlip", "VerticalFlip", "Transpose", "D4", "SquareSymmetry")
GROUPS = {
    "OneOf": ("transforms", "p"),
    "SomeOf": ("transforms", "n", "replace", "p"),
    "Sequential": ("transforms", "p"),
}

_MOVES = "it moves the image and not its keypoints; use"
_REFUSED = {
    name: why
    for why, names in {
        "its keypoints are off by pixels; use Affine or Perspective": (
            *("ElasticTransform", "GridDistortion", "GridElasticDeform"),
            *("OpticalDistortion", "PiecewiseAffine", "ThinPlateSpline"),
        ),
        f"{_MOVES} GaussianBlur or Defocus": ("ZoomBlur", "GlassBlur", "Downscale"),
        f"{_MOVES} Sharpen": ("Emboss",),
        f"{_MOVES} MedianBlur": ("Morphological",),
        "it tears the image apart; use CoarseDropout or GridDropout": ("RandomGridShuffle",),
        "it needs boxes or masks; use CoarseDropout": ("ConstrainedCoarseDropout", "MaskDropout"),
        "use HorizontalFlip": ("TimeReverse",),
        "use XYMasking": ("TimeMasking", "FrequencyMasking"),
        "it needs other images, which a config cannot give; use RandomToneCurve or ColorJitter": (
            *("FDA", "HistogramMatching", "PixelDistributionAdaptation", "TextImage"),
        ),
        "the model normalises its input itself; leave it out": ("Normalize", "ToFloat", "FromFloat"),
        "the dataset gives tensors and channels (model.in_channels) itself; leave it out": ("ToTensorV2", "ToRGB"),
    }.items()
    for name in names
}
_LARGEST, _MOST_REPEATS = 10_000, 100
_NEAREST = (cv2.INTER_NEAREST, cv2.INTER_NEAREST_EXACT)


@dataclass
class _Holes:
    """Rectangles that a transform filled.

    Attributes:
        edges: First and last columns and rows, the last ones exclusive: x0, y0, x1, y1 (N, 4).
        matrix: From pixels before the augmentation to those of the image that was filled; None: the same.
    """

    edges: np.ndarray
    matrix: Matrix | None = None

    def after(self, matrix: Matrix | None) -> _Holes:
        """Return the same holes where the image was moved by a matrix before."""
        if matrix is None:
            return self
        return _Holes(self.edges, matrix if self.matrix is None else self.matrix @ matrix)

    def cover(self, xy: np.ndarray) -> np.ndarray:
        """Return which points (..., 2), in pixels before the augmentation, lie in a hole, bool (...)."""
        at = xy if self.matrix is None else project(xy, self.matrix)
        return np.asarray(inside_box(at[..., None, :], self.edges - 0.5).any(-1))  # a pixel's index is its centre


@dataclass
class _Step:
    """One albumentations transform."""

    name: str
    transform: Any

    @property
    def p(self) -> float:
        return self.transform.p

    def leaves(self) -> Iterator[_Step]:
        yield self

    def __call__(
        self, image: np.ndarray, draw: random.Random, forced: bool, holes: list[_Holes]
    ) -> tuple[np.ndarray, Matrix | None]:
        try:
            after = self.transform(image=image, force_apply=forced)["image"]
        except Exception as error:  # a crop larger than the image, a colour transform of a grey one, …
            raise KpnetError(f'transform "{self.name}": {" ".join(str(error).split())}') from error
        drawn = self.transform.get_applied_params()
        if self.name in ERASING and len(edges := drawn.get("holes", ())):
            holes.append(_Holes(np.asarray(edges, np.float64)))
        if self.name not in GEOMETRIC or not drawn:  # it moves no pixel, or was not applied this time
            return after, None
        return after, GEOMETRIC[self.name](self.transform, drawn, image.shape[:2], after.shape[:2])


@dataclass
class _Group:
    """OneOf (with a child's p as its weight), SomeOf or Sequential, with albumentations' meaning and defaults."""

    name: str
    steps: list[_Step | _Group]
    p: float
    n: int = 1
    replace: bool = False

    def leaves(self) -> Iterator[_Step]:
        for step in self.steps:
            yield from step.leaves()

    def __call__(
        self, image: np.ndarray, draw: random.Random, forced: bool, holes: list[_Holes]
    ) -> tuple[np.ndarray, Matrix | None]:
        if not forced and draw.random() >= self.p:
            return image, None
        if self.name == "OneOf":
            return _run(draw.choices(self.steps, [step.p for step in self.steps]), image, draw, holes, forced=True)
        if self.name == "SomeOf":
            indices = range(len(self.steps))
            chosen = draw.choices(indices, k=self.n) if self.replace else draw.sample(indices, self.n)
            return _run([self.steps[i] for i in sorted(chosen)], image, draw, holes)
        return _run(self.steps, image, draw, holes)


def _run(
    steps: Sequence[_Step | _Group], image: np.ndarray, draw: random.Random, holes: list[_Holes], forced: bool = False
) -> tuple[np.ndarray, Matrix | None]:
    """Run steps, add what they covered to `holes`, and return the image and how its pixels moved."""
    total: Matrix | None = None
    for step in steps:
        first = len(holes)
        image, matrix = step(image, draw, forced, holes)
        holes[first:] = [each.after(total) for each in holes[first:]]
        if matrix is not None:
            total = matrix if total is None else matrix @ total
    return image, total


class Augment:
    """The augmentation of `data.transforms`, called as `augment(image, points, seed)`.

    `image` is uint8 (H, W) or (H, W, C). `points` is float64 (K, 2 or more), or (N, K, 2 or more) of several instances
    in the image: x and y in pixels, NaN where absent, then columns that belong to the keypoint and swap with it when
    the image is mirrored, such as its weight. The call returns both, augmented and with the same shapes: an image whose
    size has changed is resized back. A point that leaves the image keeps its place in the array. What is drawn depends
    on `seed` alone.

    Args:
        transforms: Each one is `Name` or `{Name: {argument: value}}`, with a name of `supported`. None: no
            augmentation.
        skeleton: The keypoints, whose left/right pairs swap when the image is mirrored.
        where: The key of the config that holds them, for messages.

    Raises:
        KpnetError: A transform or argument is unknown or not supported, or mirrors the image while the skeleton has no
            left/right pairs.

    Example:
        >>> skeleton = Skeleton.load("facial15")
        >>> augment = Augment(["HorizontalFlip", {"Rotate": {"limit": 30}}], skeleton)
        >>> image, points = augment(np.zeros((96, 96), np.uint8), np.zeros((15, 2)), seed=0)
    """

    def __init__(
        self, transforms: Sequence[Spec] | None, skeleton: Skeleton, *, where: str = "data.transforms"
    ) -> None:
        self.where = where
        self.steps = _build_all(transforms or [], where)
        self.num_keypoints = len(skeleton)
        self.permutation = skeleton.flip_permutation
        self.can_mirror = skeleton.can_mirror
        self.unpaired = skeleton.unpaired_sides
        self._leaves = [leaf for step in self.steps for leaf in step.leaves()]
        for leaf in self._leaves:
            if _may_mirror(leaf) and not self.can_mirror:
                _no_pairs(leaf.name, self.unpaired)

    def __call__(self, image: np.ndarray, points: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        return self._augment(image, points, seed)[:2]

    def with_covered(
        self, image: np.ndarray, points: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Augment as the call does, and say which points were covered.

        Args:
            image: Uint8 (H, W) or (H, W, C).
            points: Float64 (K, 2 or more), or (N, K, 2 or more).
            seed: What is drawn depends on it alone.

        Returns:
            The image and the points, as the call returns them, and which of these a hole of CoarseDropout, Erasing,
            GridDropout or XYMasking covers, bool (K,) or (N, K).

        Raises:
            KpnetError: As the call.
        """
        after, moved, matrix, holes = self._augment(image, points, seed)
        covered = np.zeros(points.shape[:-1], bool)
        for each in holes:
            covered |= each.cover(points[..., :2])
        swapped = matrix is not None and mirrors(matrix)
        return after, moved, covered[..., self.permutation] if swapped else covered

    def _augment(
        self, image: np.ndarray, points: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray, Matrix | None, list[_Holes]]:
        """Augment an image and its points, and return how pixels moved and what was covered as well."""
        if points.ndim not in (2, 3) or points.shape[-2] != self.num_keypoints or points.shape[-1] < 2:
            expected = f"({self.num_keypoints}, 2 or more), or one such array for each instance"
            raise KpnetError(f"keypoints have shape {points.shape}, expected {expected}")
        after, matrix, holes = self._apply(image, seed)
        return after, points.copy() if matrix is None else self._move(points, matrix), matrix, holes

    def apply(self, image: np.ndarray, seed: int) -> tuple[np.ndarray, Matrix | None]:
        """Augment an image without points.

        Args:
            image: Uint8 (H, W) or (H, W, C).
            seed: What is drawn depends on it alone.

        Returns:
            The image, of the same shape, and the 3x3 matrix that maps its pixels before to those after; None where no
            pixel moved. Left and right swap where `mirrors(matrix)`.

        Raises:
            KpnetError: A transform cannot take the image, changes its channels, or mirrors it and left and right are
                not known.
        """
        return self._apply(image, seed)[:2]

    def _apply(self, image: np.ndarray, seed: int) -> tuple[np.ndarray, Matrix | None, list[_Holes]]:
        """Augment an image, and return what was covered as well."""
        holes: list[_Holes] = []
        draw, generator = random.Random(seed), np.random.default_rng(seed)
        for leaf in self._leaves:
            leaf.transform.set_random_state(generator, draw)
        # A copy, because some transforms (AutoContrast) write into their input.
        after, matrix = _run(self.steps, image.copy(), draw, holes)
        if after.shape[:2] != image.shape[:2]:
            after, back = _resize_back(after, image.shape)
            matrix = back if matrix is None else back @ matrix
        if after.shape != image.shape or after.dtype != image.dtype:
            raise KpnetError(
                f"{self.where}: expected an image {image.dtype} {image.shape}, found {after.dtype} {after.shape}: "
                "leave out what changes channels or dtype"
            )
        if matrix is not None and not self.can_mirror and mirrors(matrix):
            _no_pairs(self.where, self.unpaired)
        return after, matrix, holes

    def _move(self, points: np.ndarray, matrix: Matrix) -> np.ndarray:
        moved = np.array(points, np.float64)
        if mirrors(matrix):
            moved = moved[..., self.permutation, :]
        moved[..., :2] = project(moved[..., :2], matrix)
        return moved


def _resize_back(image: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, Matrix]:
    before, after = (image.shape[0], image.shape[1]), (shape[0], shape[1])
    smaller = after[0] < before[0] and after[1] < before[1]  # INTER_AREA does not interpolate where it enlarges
    resized = cv2.resize(image, after[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    return resized.reshape(*after, *image.shape[2:]), resize(before, after)


def _no_pairs(where: str, unpaired: list[str]) -> NoReturn:
    what = f'"{unpaired[0]}" is in no left/right pair' if unpaired else "the skeleton has no left/right pairs"
    raise KpnetError(f'"{where}" mirrors the image, but {what}: give the skeleton `pairs`')


def _may_mirror(step: _Step) -> bool:
    scale = getattr(step.transform, "scale", None)
    negative = isinstance(scale, dict) and any(np.min(bounds) < 0 for bounds in scale.values())
    return step.name in MIRRORS or negative


def _is_photometric(name: str) -> bool:
    cls = getattr(A, name, None)
    return inspect.isclass(cls) and issubclass(cls, A.ImageOnlyTransform) and name not in _REFUSED


def supported() -> list[str]:
    """Return the names of the transforms that `data.transforms` may use.

    Returns:
        The names, sorted: geometric transforms that were tested, transforms that hide parts of the image, groups of
        transforms, and every transform of albumentations that changes pixel values only.
    """
    return sorted({*GEOMETRIC, *ERASING, *GROUPS, *filter(_is_photometric, vars(A))} - {"ImageOnlyTransform"})


def _build_all(specs: Any, where: str) -> list[_Step | _Group]:
    if isinstance(specs, (str, Mapping)) or not isinstance(specs, Sequence):
        raise KpnetError(f"{where}: expected a list of transforms, found {show(specs)}")
    return [_build(spec, where) for spec in specs]


def _build(spec: Any, where: str) -> _Step | _Group:
    if isinstance(spec, str):
        spec = {spec: None}
    if not isinstance(spec, Mapping) or len(spec) != 1:
        raise KpnetError(f"{where}: expected a name or {{name: {{argument: value}}}}, found {show(spec)}")
    name, arguments = next(iter(spec.items()))
    if name in GROUPS:
        return _build_group(name, arguments)
    if name in _REFUSED:
        raise KpnetError(f'{where}: "{name}" is not supported: {_REFUSED[name]}')
    if name not in supported():
        if inspect.isclass(getattr(A, str(name), None)):
            known = ", ".join(GEOMETRIC)
            raise KpnetError(
                f'{where}: "{name}" was not tested with keypoints; geometric transforms that were: {known}'
            )
        raise KpnetError(f'{where}: unknown transform "{name}"{did_you_mean(name, supported())}')
    if arguments is not None and not isinstance(arguments, Mapping):
        raise KpnetError(f'transform "{name}": expected {{argument: value}}, found {show(arguments)}')
    return _Step(name, _construct(name, dict(arguments or {})))


def _build_group(name: str, arguments: Any) -> _Group:
    given = dict(arguments) if isinstance(arguments, Mapping) else {"transforms": arguments}
    for key in given:
        _check_key(name, key, GROUPS[name])
    steps = _build_all(given.get("transforms"), f'transform "{name}"')
    if not steps:
        raise KpnetError(f'transform "{name}": expected a list of transforms, found nothing')
    p, n, replace = given.get("p", 1.0 if name == "SomeOf" else 0.5), given.get("n", 1), given.get("replace", False)
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p <= 1:
        raise KpnetError(f'transform "{name}": p: expected a probability from 0 to 1, found {show(p)}')
    if not isinstance(replace, bool):
        raise KpnetError(f'transform "{name}": replace: expected true or false, found {show(replace)}')
    most = _MOST_REPEATS if replace else len(steps)
    if type(n) is not int or not 1 <= n <= most:
        what = "" if replace else ", the number of transforms"
        raise KpnetError(f'transform "{name}": n: expected 1 to {most}{what}, found {show(n)}')
    if name == "OneOf" and not sum(step.p for step in steps):
        raise KpnetError('transform "OneOf": every p in it is 0, expected weights')
    return _Group(name, steps, float(p), n, replace)


def _check_key(name: str, key: str, known: Sequence[str]) -> None:
    if key not in known:
        raise KpnetError(
            f'transform "{name}": unknown argument "{key}"{did_you_mean(key, known)}; known: {", ".join(known)}'
        )


def _construct(name: str, arguments: dict[str, Any]) -> Any:
    cls = getattr(A, name)
    for key in arguments:
        _check_key(name, key, [p for p in inspect.signature(cls.__init__).parameters if p != "self"])
    for key, value in arguments.items():
        _check_numbers(f'transform "{name}": {key}', value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # about arguments that it would ignore
            warnings.filterwarnings("ignore", ".*special case of Affine")
            transform = cls(**arguments)
    except Exception as error:
        raise KpnetError(f'transform "{name}": {_describe_error(error, arguments)}') from error
    if name in GEOMETRIC and getattr(transform, "interpolation", None) in _NEAREST:
        raise KpnetError(
            f'transform "{name}": interpolation: nearest shifts the image by up to half a pixel; use 1, linear'
        )
    if name == "MotionBlur" and (transform.allow_shifted or any(transform.direction_range)):
        raise KpnetError('transform "MotionBlur" moves the image; use allow_shifted: false, direction_range: [0, 0]')
    return transform


def _check_numbers(where: str, value: Any) -> None:
    """Raise for a number that no image needs: albumentations takes NaN, and works for hours on a huge blur."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            _check_numbers(where, each)
    elif isinstance(value, (int, float)) and not abs(value) <= _LARGEST:
        raise KpnetError(f"{where}: expected numbers from -{_LARGEST} to {_LARGEST}, found {show(value)}")


def _describe_error(error: Exception, arguments: dict[str, Any]) -> str:
    """Return albumentations' error in one line: key, what was found, what was expected."""
    if not isinstance(error.__cause__, ValidationError):
        return " ".join(str(error).split())
    errors = error.__cause__.errors(include_url=False)
    key = str(errors[0]["loc"][0]) if errors[0]["loc"] else ""
    if errors[0]["type"] == "missing" and key not in arguments:
        return f'"{key}" is missing'
    messages = [e["msg"].replace("Input should be", "expected").removeprefix("Value error, ") for e in errors]
    found = f"{key}: found {show(arguments.get(key))}, " if key else ""
    return found + " or ".join(dict.fromkeys(messages))
