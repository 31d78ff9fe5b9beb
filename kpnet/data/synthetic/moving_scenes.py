"""Drawn clips of several faces that pass in front of each other: data for tests of tracking."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kpnet.core.errors import KpnetError
from kpnet.data.synthetic.face_model import DEFORMATIONS, Face, rotation
from kpnet.data.synthetic.faces import LARGEST, random_shape, random_tones
from kpnet.data.synthetic.scenes import MOST_FACES, covered_points, draw_faces, textured_background

_HEAD = 2.3  # units from the top of a head to its chin, with room
_REACH = 0.33  # of the image's side: how far faces go to each side


@dataclass
class MovingScene:
    """A clip of faces that move.

    Attributes:
        images: Uint8 (T, size, size).
        points: Keypoints of the N faces in each frame, float64 (T, N, 15, 2) in pixels; all lie on the image.
        visibility: Uint8 (T, N, 15): 1 where a nearer face covers a point, 2 where it is visible.
        identities: Number of each face, int (N,), the farthest first.
    """

    images: np.ndarray
    points: np.ndarray
    visibility: np.ndarray
    identities: np.ndarray


def draw_clip(frames: int, faces: int, seed: int, *, size: int = 256, period: float = 80.0) -> MovingScene:
    """Draw a clip in which pairs of faces cross, one in front of the other.

    The faces of a pair go to and fro along one line in opposite directions, so that they cross twice in a period. Pairs
    have lines of their own; with an odd number of faces the last one is alone.

    Args:
        frames: Number of frames, at least 1.
        faces: Number of faces, from 1 to 20.
        seed: Seed of the clip.
        size: Height and width of the images in pixels, at least 64.
        period: Frames in which a face goes to and fro.

    Returns:
        The clip. It depends on the arguments alone, and a longer one begins with the shorter one.

    Raises:
        KpnetError: An argument is out of its range.
    """
    if frames < 1 or not 1 <= faces <= MOST_FACES or not 64 <= size <= LARGEST or not period > 0:
        raise KpnetError(
            f"moving scenes: {frames} frames of {size} px with {faces} faces and a period of {period:g}; expected at "
            f"least 1 frame of 64 to {LARGEST} px with 1 to {MOST_FACES} faces and a period above 0"
        )
    rng = np.random.default_rng(seed)
    background = textured_background(rng, size)
    actors = [_Actor(rng, size, k, faces, period) for k in range(faces)]
    tones = [random_tones(rng) for _ in actors]
    light = int(rng.integers(2**62))
    images, points, hidden = [], [], []
    for frame in range(frames):
        now = [actor.face(frame) for actor in actors]
        grain = np.random.default_rng((seed, frame))
        images.append(draw_faces(now, tones, background, np.random.default_rng(light), grain))
        points.append(np.stack([face.keypoints for face in now]))
        hidden.append(covered_points(now))
    return MovingScene(np.stack(images), np.stack(points), np.where(hidden, 1, 2).astype(np.uint8), np.arange(faces))


class _Actor:
    """A face that goes to and fro, turns and changes its expression."""

    def __init__(self, rng: np.random.Generator, size: int, number: int, faces: int, period: float) -> None:
        lanes = (faces + 1) // 2
        lane, side = divmod(number, 2)
        self.size, self.period = size, period
        self.scale = size * min(0.16, 1 / (_HEAD * lanes)) * rng.uniform(0.85, 1.0)
        phase = np.random.default_rng(np.random.SeedSequence((lane, faces))).uniform(0, 2 * np.pi)
        self.phase = phase + np.pi * side + rng.uniform(-0.2, 0.2)
        self.reach = size * _REACH * rng.uniform(0.85, 1.0)
        self.y = size * ((lane + 0.5) / lanes - 0.5) + self.scale * rng.uniform(-0.25, 0.25)
        self.weights, self.turn = random_shape(rng), np.clip(rng.standard_normal(3), -2, 2) * (10, 5, 7)
        self.periods, self.phases = rng.uniform(24, 90, 5), rng.uniform(0, 2 * np.pi, 5)

    def face(self, frame: int) -> Face:
        """Return the face in a frame."""
        waves = np.sin(2 * np.pi * frame / self.periods + self.phases)
        weights = self.weights.copy()
        opening = list(DEFORMATIONS).index("mouth_open")
        weights[opening] = abs(weights[opening] + waves[0])
        turn = rotation(*np.radians(self.turn + (9, 5, 6) * waves[1:4]))
        x = self.reach * np.cos(2 * np.pi * frame / self.period + self.phase)
        return Face(self.size, weights, turn, self.scale, (float(x), float(self.y + 0.15 * self.scale * waves[4])))
