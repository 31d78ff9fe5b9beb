"""Top-down crops: which part of its image a sample is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kpnet.coordinates import Size, crop_region
from kpnet.core.errors import KpnetError

Region = tuple[int, int, int, int]


@dataclass(frozen=True)
class Cropper:
    """What lies about a sample's box, `box_scale` times as large; `shift` and `scale`: see `schema.Crop`."""

    by: Literal["box", "points"]
    box_scale: float = 1.25
    shift: float = 0.0
    scale: float = 0.0

    @property
    def jitters(self) -> bool:
        """Does it move about, as in training?"""
        return bool(self.shift or self.scale)

    def region(
        self,
        box: np.ndarray | None,
        xy: np.ndarray,
        shape: Sequence[int],
        target: Size,
        draws: np.random.Generator | None = None,
    ) -> Region:
        """Whole pixels, as `coordinates.crop_region` has them, of an image of `shape`; jittered where there are draws.

        xy: the sample's points (K, 2), NaN where absent. Where they span no box, `by: points` takes the whole image.
        """
        source = (shape[0], shape[1])
        if self.by == "points":
            box = _around(xy)
            box = np.array([-0.5, -0.5, source[1] - 0.5, source[0] - 0.5]) if box is None else box
        if box is None:
            raise KpnetError("data.crop is box, but it has none; use crop: points, or leave crop out")
        try:
            region = crop_region(box, self.box_scale, source, target)
        except ValueError as error:
            raise KpnetError(str(error)) from None
        return region if draws is None else self._jitter(region, draws)

    def _jitter(self, region: Region, draws: np.random.Generator) -> Region:
        edges = np.array(region, float).reshape(2, 2)
        sides = edges[1] - edges[0]
        centre = edges.mean(0) + sides * draws.uniform(-self.shift, self.shift, 2)
        sides = np.maximum(np.round(sides * (1 + self.scale) ** draws.uniform(-1, 1)), 1)
        left, top = np.round(centre - sides / 2)
        return int(left), int(top), int(left + sides[0]), int(top + sides[1])


def _around(xy: np.ndarray) -> np.ndarray | None:
    """The box about the points (K, 2) that are there, or None where it has no area."""
    known = xy[np.isfinite(xy).all(-1)]
    if not len(known) or not (np.ptp(known, axis=0) > 0).all():
        return None
    return np.concatenate([known.min(0), known.max(0)])
