"""The keypoints that were predicted in an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kpnet.inference.supervision import from_key_points, to_key_points

if TYPE_CHECKING:
    import pandas as pd
    import supervision


@dataclass
class Prediction:
    """The keypoints of the N instances of one image.

    Attributes:
        image: Name of the image.
        names: Names of the K keypoints.
        keypoints: Points (N, K, 2) in pixels of the original image.
        confidence: Probability (N, K) that a point lies within 5 % of the input's longer side. None if the model
            predicts none.
        covariance: Covariance (N, K, 2, 2) in pixels squared. None if the model predicts none.
        dof: Degrees of freedom of the errors' Student t distribution, for `kpnet.uncertainty.ellipse_radius`; infinite
            for normal errors.
    """

    image: str
    names: tuple[str, ...]
    keypoints: np.ndarray
    confidence: np.ndarray | None
    covariance: np.ndarray | None
    dof: float = math.inf

    def to_frame(self) -> pd.DataFrame:
        """Return a table with a row for each point.

        Returns:
            The columns image, instance, name, x, y and confidence (NaN without one).
        """
        import pandas as pd  # a third of a second that only tables need

        count, points = self.keypoints.shape[:2]
        return pd.DataFrame(
            {
                "image": self.image,
                "instance": np.repeat(np.arange(count), points),
                "name": list(self.names) * count,
                "x": self.keypoints[..., 0].ravel(),
                "y": self.keypoints[..., 1].ravel(),
                "confidence": np.nan if self.confidence is None else self.confidence.ravel(),
            }
        )

    def to_supervision(self) -> supervision.KeyPoints:
        """Return the points for supervision's annotators and trackers. Needs `kpnet[supervision]`.

        Returns:
            The points, float32 (N, K, 2); absent ones are at 0, 0 and not visible. `data` has names and covariance.

        Raises:
            KpnetError: supervision is not installed.
        """
        return to_key_points(self.keypoints, self.confidence, self.covariance, self.names)

    @classmethod
    def from_supervision(
        cls, key_points: supervision.KeyPoints, image: str = "", names: Sequence[str] | None = None
    ) -> Prediction:
        """Return the points of `supervision.KeyPoints`, from whatever model.

        Args:
            key_points: The points of N instances.
            image: Name of the image.
            names: Names of the K keypoints. None: those that `to_supervision` stored, or else 0, 1, 2, …

        Returns:
            The prediction, NaN where a point is at 0, 0 or not visible.

        Raises:
            KpnetError: It holds no such points, or another number of them than names.
        """
        keypoints, confidence, covariance, own = from_key_points(key_points, names)
        return cls(image, own, keypoints, confidence, covariance)
