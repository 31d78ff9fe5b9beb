"""Which frames of a video to label: spread evenly, or as different from each other as possible."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line needs the choices alone
    import numpy as np

SIDE = 32  # pixels of the small grey frames that are compared
MOST_COMPARED = 20_000  # of them are held, 100 MB: over 11 minutes at 30 frames per second


class Pick(StrEnum):
    """How the frames of a video are picked."""

    evenly = "evenly"
    difference = "difference"


def pick_different(frames: Iterable[np.ndarray], count: int, most: int = MOST_COMPARED) -> list[int]:
    """Pick frames that differ from each other, by the greedy k-centre method.

    The first is the one that is nearest to the mean of all; each further one is the one that is farthest, in grey
    values, from its nearest among those picked before. A frame equal to one of them is never picked.

    Args:
        frames: Small grey frames, uint8 (S, S), in their order. They are read once.
        count: How many to pick, at least 1.
        most: How many are held in memory, at least 2: of a longer video every second, fourth, … frame is compared.

    Returns:
        Numbers of at most `count` frames, ascending.
    """
    import numpy as np

    held: list[np.ndarray] = []
    step = 1
    for number, frame in enumerate(frames):
        if number % step:
            continue
        if len(held) == most:
            held, step = held[::2], 2 * step
            if number % step:
                continue
        held.append(frame.ravel())
    if not held:
        return []
    values = np.stack(held).astype(np.float32)

    def squared(center: np.ndarray) -> np.ndarray:
        """Return the squared distance of each frame, in parts that fit a cache."""
        parts = (values[k : k + 256] - center for k in range(0, len(values), 256))
        return np.concatenate([np.einsum("ij,ij->i", part, part) for part in parts])

    chosen = [int(squared(values.mean(0, dtype=np.float64).astype(np.float32)).argmin())]
    nearest = squared(values[chosen[0]])
    while len(chosen) < count and nearest.max() > 0:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, squared(values[chosen[-1]]))
    return sorted(step * k for k in chosen)
