"""Drawn faces with exactly known keypoints: data for demos and tests that needs no file."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import cv2
import numpy as np

from kpnet.config.schema import DataConfig
from kpnet.core.errors import KpnetError, shorten
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import DATASETS, KeypointDataset
from kpnet.data.synthetic.face_model import DEFORMATIONS, Canvas, Face, Tones, draw_face, rotation

MOST, LARGEST = 1_000_000, 4096  # samples; side in pixels


class DrawnDataset(KeypointDataset):
    """Base class of data sets that are drawn. A subclass takes the number of things to draw first."""

    title: ClassVar[str]  # what it draws, for messages

    @classmethod
    def open(cls, data: DataConfig, source: str | int, skeleton: Skeleton | None, **common: Any) -> Self:
        """Draw as many as `source` says. The keypoints are always those of `facial15`."""
        text = str(source)
        if not (text.isascii() and text.isdecimal() and len(text) <= 7 and int(text) <= MOST):
            raise KpnetError(
                f'{cls.title}: found "{shorten(text)}", expected their number up to {MOST:,}, e.g. data.train=100'
            )
        return cls(int(text), **common)  # type: ignore[arg-type, call-arg]

    def labels(self) -> np.ndarray:
        return np.ones((len(self), len(self.skeleton)), bool)


@DATASETS.register("synthetic")
class SyntheticFaces(DrawnDataset):
    """Drawn grey faces with the 15 keypoints of `facial15`.

    Shape, expression, pose, light, background, blur, noise and occluders vary. All keypoints lie on the image and count
    as visible, also under an occluder. A face is drawn when it is needed, from the seed and its index alone.

    Args:
        n: Number of faces.
        seed: Seed of the faces, and of the augmentation.
        size: Height and width of the images in pixels, at least 16.
        **options: `image_size`, `in_channels` and `transform` of `KeypointDataset`.

    Raises:
        KpnetError: `n` or `size` is too small.

    Example:
        >>> image, keypoints = SyntheticFaces(100).read(0)
        >>> image.shape, keypoints.shape
        ((96, 96), (15, 2))
    """

    title = "synthetic faces"

    def __init__(self, n: int, *, seed: int = 0, size: int = 96, **options: Any) -> None:
        super().__init__(seed=seed, **options)
        if n < 1 or not 16 <= size <= LARGEST:
            raise KpnetError(f"synthetic faces: {n} of {size} px; expected at least 1 of 16 to {LARGEST} px")
        self.n, self.size = n, size
        self.skeleton = Skeleton.load("facial15")

    def __len__(self) -> int:
        return self.n

    def keypoints_of(self, index: int) -> np.ndarray:
        return random_face(np.random.default_rng((self.seed, index)), self.size).keypoints

    def image_shape(self, index: int) -> tuple[int, int]:
        return self.size, self.size

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= index < self.n:
            raise IndexError(f"face {index} of {self.n}")
        rng = np.random.default_rng((self.seed, index))
        face = random_face(rng, self.size)
        return photograph(draw_scene(face, self.size, rng), face, rng), face.keypoints


def random_face(rng: np.random.Generator, size: int) -> Face:
    """Draw the shape, pose, scale and place of a face."""
    weights, turn = random_shape(rng), random_turn(rng)
    scale = size * rng.uniform(0.31, 0.44)
    x, y = rng.uniform(-0.08, 0.08, 2) * size
    return Face(size, weights, turn, scale, (x, y + 0.02 * size))


def random_shape(rng: np.random.Generator) -> np.ndarray:
    """Draw the weights (D,) of a face's deformations."""
    weights = np.clip(rng.standard_normal(len(DEFORMATIONS)), -2, 2)
    opening = list(DEFORMATIONS).index("mouth_open")
    weights[opening] = max(0.0, weights[opening])
    return weights


def random_turn(rng: np.random.Generator) -> np.ndarray:
    """Draw the 3x3 rotation of a head."""
    yaw, pitch, roll = np.radians(np.clip(rng.standard_normal(3), -2, 2) * (15, 8, 11))
    return rotation(yaw, pitch, roll)


def draw_scene(face: Face, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a face in random grey values before a random background, uint8 (size, size); some are occluded."""
    canvas, tones = Canvas(size, soft_patches(rng)), random_tones(rng)
    draw_face(canvas, face, tones, long_hair=rng.random() < 0.35, fringe=rng.random() < 0.8)
    _occlude(canvas, face, tones, rng)
    return canvas.image()


def random_tones(rng: np.random.Generator) -> Tones:
    """Draw the grey values of a person."""
    skin = rng.uniform(95, 215)
    return Tones(
        skin=skin,
        hair=rng.uniform(15, 0.75 * skin),
        nose_tip=min(255.0, 1.22 * skin),
        iris=rng.uniform(25, 90),
        lips=skin * rng.uniform(0.5, 0.78),
        cloth=rng.uniform(10, 245),
    )


def soft_patches(rng: np.random.Generator) -> np.ndarray:
    """Return a small image of soft patches, to be stretched over the whole image."""
    cells = rng.integers(3, 9)
    level, contrast = rng.uniform(30, 220), rng.uniform(5, 70)
    return np.clip(level + contrast * rng.standard_normal((cells, cells)), 0, 255).astype(np.uint8)


def _occlude(canvas: Canvas, face: Face, tones: Tones, rng: np.random.Generator) -> None:
    """Draw glasses, a bar or fingers over some of the faces."""
    kind, value = rng.random(), rng.uniform(0, 255)
    if kind < 0.15:
        width = face.scale * rng.uniform(0.03, 0.07)
        for side in ("left_", "right_"):
            canvas.line(face.part(side + "lens"), value * 0.4, width, closed=True)
            canvas.line(face.part(side + "temple"), value * 0.4, width)
    elif kind < 0.20:
        angle, reach = rng.uniform(0, np.pi), canvas.size
        along = reach * np.array([np.cos(angle), np.sin(angle)])
        middle = canvas.size * rng.uniform(0.2, 0.8, 2)
        canvas.line(np.stack([middle - along, middle + along]), value, face.scale * rng.uniform(0.1, 0.25))
    elif kind < 0.26:
        tip = canvas.size * rng.uniform((0.2, 0.6), (0.8, 0.85))
        lean = canvas.size * np.array([rng.uniform(-0.5, 0.5), 1.0])
        for finger in range(-1, 2):
            start = tip + face.scale * np.array([0.19 * finger, 0.06 * abs(finger)])
            canvas.line(np.stack([start, start + lean]), tones.skin * 0.6, face.scale * 0.19)
            canvas.line(np.stack([start, start + lean]), tones.skin * 0.95, face.scale * 0.15)


def photograph(image: np.ndarray, face: Face, rng: np.random.Generator) -> np.ndarray:
    """Add light from one side, contrast, blur and noise to an image uint8 (size, size). No pixel is moved."""
    size = len(image)
    if rng.random() < 0.5:
        sigma = size / 96 * rng.uniform(0.3, 0.9)
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    x, y = ((np.arange(size) - face.keypoints.mean(0)[:, None]) / face.scale).astype(np.float32)
    (gx, gy), falloff = rng.uniform(-0.3, 0.3, 2).tolist(), rng.uniform(0, 0.15)
    light = (1 + gx * x - falloff * x**2)[None] + (gy * y - falloff * y**2)[:, None]
    gain, level = rng.uniform(0.6, 1.1), rng.uniform(90, 150)
    lit = image * np.maximum(light, 0.35)
    lit *= gain
    lit += level - 128 * gain
    lit += rng.uniform(1, 7) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(lit, 0, 255, out=lit).astype(np.uint8)
