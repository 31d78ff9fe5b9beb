"""Top-down crops: the region of the image around a sample."""

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
    """Chooses the region around each sample.

    Args:
        by: What the region surrounds: the sample's box, the box around its keypoints, or that of `instance_box`.
        box_scale: Size of the region relative to the box.
        shift: Jitter of the region's centre, at most this part of its size in each direction.
        scale: Jitter of the region's size, by a factor between 1 / (1 + scale) and 1 + scale.
        fallback_side: Side in pixels of the box of an instance that has none and whose points span none.
    """

    by: Literal["box", "points", "instance"]
    box_scale: float = 1.25
    shift: float = 0.0
    scale: float = 0.0
    fallback_side: float | None = None

    @property
    def jitters(self) -> bool:
        """Whether the region varies, as in training."""
        return bool(self.shift or self.scale)

    def region(
        self,
        box: np.ndarray | None,
        xy: np.ndarray,
        shape: Sequence[int],
        target: Size,
        draws: np.random.Generator | None = None,
    ) -> Region:
        """Choose the region of an image to crop.

        Args:
            box: Edges x0, y0, x1, y1 of the sample's box, or None. Not used for keypoints.
            xy: Keypoints (K, 2) in pixels, NaN where absent. If they span no box, the region is the whole image.
            shape: Shape of the image, height and width first.
            target: Height and width of the crop after resizing, which give the region's aspect ratio.
            draws: Random generator of the jitter. None: no jitter.

        Returns:
            The pixels left, top, right and bottom, the last two exclusive. They may lie outside the image.

        Raises:
            KpnetError: There is no box, or it has no area.
        """
        source = (shape[0], shape[1])
        if self.by != "box":
            box = _around(xy) if self.by == "points" else instance_box(box, xy, self.fallback_side)
            box = np.array([-np.inf, -np.inf, np.inf, np.inf]) if box is None else box  # is cut to the image
        if box is None:
            raise KpnetError("data.crop is box, but the sample has none; use crop: points, or leave crop out")
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


def instance_box(box: np.ndarray | None, xy: np.ndarray, fallback_side: float | None) -> np.ndarray | None:
    """Return the box of an instance: the one rule of crops, of whole images and of evaluation.

    Args:
        box: Edges x0, y0, x1, y1 in pixels that the data has, or None.
        xy: Keypoints (K, 2) in pixels, NaN where absent.
        fallback_side: Side in pixels of the square about points that span no area. None: there is no such square.

    Returns:
        The data's box; without one, the box around the points; where they span no area, as a single point does, the
        square about them. None without box and points, or without area and `fallback_side`.
    """
    if box is not None:
        return box
    around = _around(xy)
    known = xy[np.isfinite(xy).all(-1)]
    if around is not None or fallback_side is None or not len(known):
        return around
    low, high = known.min(0), known.max(0)
    middle, side = (low + high) / 2, max(fallback_side, float((high - low).max()))
    return np.concatenate([middle - side / 2, middle + side / 2])


def _around(xy: np.ndarray) -> np.ndarray | None:
    """Return the box around the points (K, 2) that are present, or None if it has no area."""
    known = xy[np.isfinite(xy).all(-1)]
    if not len(known) or not (np.ptp(known, axis=0) > 0).all():
        return None
    return np.concatenate([known.min(0), known.max(0)])
