"""Drawn scenes: images with 0 to N faces of different sizes that partly cover each other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import DATASETS
from kpnet.data.surroundings import Surroundings
from kpnet.data.synthetic.face_model import Canvas, Face, Tones, draw_face, head_outlines
from kpnet.data.synthetic.faces import LARGEST, DrawnDataset, random_shape, random_tones, random_turn, soft_patches

SMALLEST = 0.082  # pixels in a unit of the smallest head, relative to the image's side; a head is 1.7 units wide
LARGER = 3.0  # the largest head relative to the smallest
MOST_FACES, MOST_SCENES = 20, 100_000
_OVERLAP = 1 / 3  # the largest intersection of two boxes relative to their union
_COVERED = 1 / 2  # the same relative to the smaller of them
_HIDDEN = 1 / 3  # the largest share of a face's points that are hidden
_TRIES = 40
_BESIDE = 0.3  # share of the places that are sought beside another face


@DATASETS.register("synthetic_scenes")
class SyntheticScenes(DrawnDataset):
    """Drawn grey images with 0 to 6 faces, each a sample with the 15 keypoints of `facial15`.

    The largest faces are three times as large as the smallest. Boxes of two faces overlap by at most a third; the
    nearer face, which is the larger, hides at most a third of the other's points. There are no boxes but those of
    the points. An image is drawn when it is needed, from the seed and its number alone.

    Args:
        n: Number of images.
        seed: Seed of the images, and of the augmentation.
        size: Height and width of the images in pixels, at least 64.
        faces: Largest number of faces on an image. Each number from 0 on is as likely; the first image has one or more.
        **options: `image_size`, `in_channels` and `transform` of `KeypointDataset`.

    Raises:
        KpnetError: `n`, `size` or `faces` is out of its range.

    Example:
        >>> scenes = SyntheticScenes(10)
        >>> image, keypoints = scenes.read(0)
        >>> image.shape, keypoints.shape
        ((256, 256), (15, 2))
    """

    title = "synthetic scenes"

    def __init__(self, n: int, *, seed: int = 0, size: int = 256, faces: int = 6, **options: Any) -> None:
        super().__init__(seed=seed, **options)
        if not 1 <= n <= MOST_SCENES or not 64 <= size <= LARGEST or not 1 <= faces <= MOST_FACES:
            raise KpnetError(
                f"synthetic scenes: {n} of {size} px with up to {faces} faces; expected 1 to {MOST_SCENES:,} of 64 to "
                f"{LARGEST} px with up to 1 to {MOST_FACES} faces"
            )
        self.n, self.size, self.faces = n, size, faces
        self.skeleton = Skeleton.load("facial15")
        scenes = [self._faces(number)[0] for number in range(n)]
        counts = np.array([len(scene) for scene in scenes])
        self._scene = np.repeat(np.arange(n), counts)
        self._first = np.cumsum(counts) - counts
        self._points = np.array([face.keypoints for scene in scenes for face in scene])
        self._hidden = np.concatenate([covered_points(scene) for scene in scenes])

    def __len__(self) -> int:
        return len(self._scene)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.image(int(self._scene[range(len(self))[index]])), self.keypoints_of(index)

    def keypoints_of(self, index: int) -> np.ndarray:
        return self._points[index].copy()

    def image_shape(self, index: int) -> tuple[int, int]:
        return self.size, self.size

    def visibility(self, index: int) -> np.ndarray:
        return np.where(self._hidden[index], 1, 2).astype(np.uint8)

    def image_name(self, index: int) -> str:
        return str(self._scene[index])

    def instance(self, index: int) -> int:
        return int(index - self._first[self._scene[index]])

    def surroundings(self) -> list[Surroundings]:
        empty = np.setdiff1d(np.arange(self.n), self._scene).tolist()
        return [Surroundings(str(number), str(number), partial(self.image, number)) for number in empty]

    def image(self, number: int) -> np.ndarray:
        """Draw an image.

        Args:
            number: Its number, from 0 to `n` - 1.

        Returns:
            Uint8 (size, size).
        """
        faces, rng = self._faces(number)
        return draw_faces(faces, [random_tones(rng) for _ in faces], textured_background(rng, self.size), rng)

    def _faces(self, number: int) -> tuple[list[Face], np.random.Generator]:
        """Return the faces of an image, the farthest first, and the generator that goes on to draw them."""
        rng = np.random.default_rng((self.seed, number))
        least = 0 if number else 1  # a dataset has a sample
        return place_faces(rng, self.size, int(rng.integers(least, self.faces + 1))), rng


def place_faces(rng: np.random.Generator, size: int, count: int) -> list[Face]:
    """Choose faces whose boxes overlap by at most a third, and of which at most a third of the points is covered.

    Args:
        rng: Random generator.
        size: Height and width of the image in pixels.
        count: Number of faces to place; fewer where there is no room.

    Returns:
        The faces, the farthest and smallest first.
    """
    scales = np.sort(size * SMALLEST * LARGER ** rng.uniform(0, 1, count))[::-1]  # the largest needs the most room
    placed: list[Face] = []
    boxes: list[np.ndarray] = []
    heads: list[list[np.ndarray]] = []
    for scale in scales.tolist():
        weights, turn = random_shape(rng), random_turn(rng)
        for _ in range(_TRIES):
            place = rng.uniform(-0.5, 0.5, 2) * size
            if placed and rng.random() < _BESIDE:
                other = placed[int(rng.integers(len(placed)))]
                angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 1.1) * (scale + other.scale)
                middle = other.keypoints.mean(0) - (size - 1) / 2
                place = middle + reach * np.array([np.cos(angle), np.sin(angle)])
            face = Face(size, weights, turn, scale, (float(place[0]), float(place[1])))
            head = head_outlines(face)
            own = np.stack([_box(face.keypoints), _box(np.concatenate(head))])
            if all(_fit(own, other) for other in boxes) and _covered(face, heads).mean() <= _HIDDEN:
                placed.append(face)
                boxes.append(own)
                heads.append(head)
                break
    return placed[::-1]


def covered_points(faces: Sequence[Face]) -> np.ndarray:
    """Return which keypoints a nearer head covers.

    Args:
        faces: The faces, the farthest first.

    Returns:
        Bool (N, 15).
    """
    heads = [head_outlines(face) for face in faces]
    return np.array([_covered(face, heads[far + 1 :]) for far, face in enumerate(faces)]).reshape(-1, 15)


def draw_faces(
    faces: Sequence[Face],
    tones: Sequence[Tones],
    background: np.ndarray,
    rng: np.random.Generator,
    grain: np.random.Generator | None = None,
) -> np.ndarray:
    """Draw heads over a background, and photograph them in one light.

    Args:
        faces: The faces, the farthest first.
        tones: Grey values of each.
        background: Uint8 (size, size).
        rng: Random generator of the light, and of the noise.
        grain: Random generator of the noise, new in each frame of a clip. None: `rng`.

    Returns:
        Uint8 (size, size).
    """
    canvas = Canvas(len(background), background)
    for face, own in zip(faces, tones, strict=True):
        draw_face(canvas, face, own, bust=False)
    gain, level, slope = rng.uniform(0.7, 1.1), rng.uniform(100, 150), rng.uniform(-0.2, 0.2, 2)
    x = np.linspace(-1, 1, len(background), dtype=np.float32)
    light = 1 + np.float32(slope[0]) * x[None] + np.float32(slope[1]) * x[:, None]
    lit = (canvas.image() * light - 128) * gain + level
    lit += rng.uniform(1, 6) * (grain or rng).standard_normal(lit.shape, dtype=np.float32)
    return np.clip(lit, 0, 255).astype(np.uint8)


def textured_background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw soft patches with grain, lines and discs, none of which is a face.

    Args:
        rng: Random generator.
        size: Height and width in pixels.

    Returns:
        Uint8 (size, size).
    """
    grain = rng.uniform(0, 25) * rng.standard_normal((size // 4, size // 4), dtype=np.float32)
    image = cv2.resize(soft_patches(rng), (size, size)).astype(np.float32) + cv2.resize(grain, (size, size))
    image = np.clip(image, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(0, 8))):
        (x0, y0), (x1, y1) = rng.integers(0, size, (2, 2)).tolist()
        value, width = float(rng.uniform(0, 255)), int(rng.integers(1, 2 + size // 40))
        if rng.random() < 0.5:
            cv2.line(image, (x0, y0), (x1, y1), value, width, cv2.LINE_AA)
        else:
            cv2.circle(image, (x0, y0), int(rng.integers(4, 5 + size // 12)), value, -1, cv2.LINE_AA)
    return image


def _covered(face: Face, heads: Sequence[list[np.ndarray]]) -> np.ndarray:
    """Return which keypoints of a face lie in the outlines of nearer heads, bool (15,)."""
    covered = np.zeros(len(face.keypoints), bool)
    for outlines in heads:
        low, high = _box(np.concatenate(outlines)).reshape(2, 2)
        for k in np.flatnonzero(((face.keypoints >= low) & (face.keypoints <= high)).all(-1)).tolist():
            x, y = face.keypoints[k].tolist()
            covered[k] |= any(cv2.pointPolygonTest(each.astype(np.float32), (x, y), False) >= 0 for each in outlines)
    return covered


def _box(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points.min(0), points.max(0)])


def _fit(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether boxes (B, 4) overlap little enough, each with the same of the other face."""
    sides = np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2])
    both = np.clip(sides, 0, None).prod(-1)
    areas = np.array([(each[:, 2:] - each[:, :2]).prod(-1) for each in (one, other)])
    return bool((both <= _OVERLAP * (areas.sum(0) - both)).all() and (both <= _COVERED * areas.min(0)).all())
