"""Drawn faces that move: data for heads that see several frames."""

from __future__ import annotations

from typing import Any

import numpy as np

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import DATASETS
from kpnet.data.synthetic.face_model import DEFORMATIONS, Face, rotation
from kpnet.data.synthetic.faces import LARGEST, MOST, DrawnDataset, draw_scene, photograph

NOISE = (2.0, 12.0)  # standard deviation in grey values, one for each clip


@DATASETS.register("synthetic_clips")
class SyntheticClips(DrawnDataset):
    """Drawn clips of a moving grey face with the 15 keypoints of `facial15`.

    A clip shows one person in front of one background in one light. Pose, place, size and expression change smoothly,
    and the noise is new in each frame. A frame is drawn when it is needed, from the seed, its clip and its number
    alone.

    Args:
        n: Number of clips.
        frames: Number of frames in each clip.
        seed: Seed of the clips, and of the augmentation.
        size: Height and width of the images in pixels, at least 16.
        **options: `image_size`, `in_channels` and `transform` of `KeypointDataset`.

    Raises:
        KpnetError: `n`, `frames` or `size` is too small.

    Example:
        >>> len(SyntheticClips(10, frames=24))
        240
    """

    title = "synthetic clips"

    def __init__(self, n: int, *, frames: int = 24, seed: int = 0, size: int = 96, **options: Any) -> None:
        super().__init__(seed=seed, **options)
        if n < 1 or not 1 <= frames * n <= 24 * MOST or not 16 <= size <= LARGEST:
            raise KpnetError(
                f"synthetic clips: {n} of {frames} frames of {size} px; "
                f"expected at least 1 of 1 of 16 px, at most {24 * MOST:,} frames of {LARGEST} px"
            )
        self.n, self.length, self.size = n, frames, size
        self.skeleton = Skeleton.load("facial15")

    def __len__(self) -> int:
        return self.n * self.length

    def clips(self) -> np.ndarray:
        return np.repeat(np.arange(self.n), self.length)

    def image_name(self, index: int) -> str:
        clip, frame = divmod(index, self.length)
        return f"{clip}_{frame}"

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        clip, frame = divmod(index, self.length)
        rng = np.random.default_rng((self.seed, clip))
        face = _moving_face(rng, self.size, frame)
        scene, noise = draw_scene(face, self.size, rng), rng.uniform(*NOISE)
        image = photograph(scene, face, rng).astype(np.float32)
        grain = np.random.default_rng((self.seed, clip, frame)).standard_normal(image.shape, dtype=np.float32)
        return np.clip(image + noise * grain, 0, 255).astype(np.uint8), face.keypoints


def _moving_face(rng: np.random.Generator, size: int, frame: int) -> Face:
    """Return the face in a frame. `rng` draws the same for all frames of a clip."""
    weights = np.clip(rng.standard_normal(len(DEFORMATIONS)), -2, 2)
    names = list(DEFORMATIONS)
    moving = [names.index(name) for name in ("mouth_open", "smile", "brow_height")]
    weights[moving] += _waves(rng, frame, (1.0, 1.0, 1.0))
    opening = names.index("mouth_open")
    weights[opening] = abs(weights[opening])
    pose = np.clip(rng.standard_normal(3), -2, 2) * (12, 6, 9) + _waves(rng, frame, (9, 5, 6))
    scale = size * (rng.uniform(0.33, 0.42) + _waves(rng, frame, (0.015,))[0])
    x, y = size * (rng.uniform(-0.06, 0.06, 2) + _waves(rng, frame, (0.06, 0.05)))
    return Face(size, weights, rotation(*np.radians(pose)), scale, (x, y + 0.02 * size))


def _waves(rng: np.random.Generator, frame: int, amplitudes: tuple[float, ...]) -> np.ndarray:
    """Return for each amplitude a sine of it plus one of half of it, with periods of 24 to 90 frames."""
    count = len(amplitudes)
    periods, phases = rng.uniform(24, 90, (2, count)), rng.uniform(0, 2 * np.pi, (2, count))
    waves = np.sin(2 * np.pi * frame / periods + phases)
    return np.asarray(amplitudes) * (waves[0] + waves[1] / 2)
