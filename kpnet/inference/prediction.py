"""The keypoints that were predicted in an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kpnet.inference.supervision import BOXES, EXPECTED_OKS, from_key_points, read_instances, to_key_points

if TYPE_CHECKING:
    import pandas as pd
    import supervision

OF_POINTS, OF_INSTANCES = ("presence", "radius", "joint_radius"), ("score", "expected_oks")
COLUMNS = (*OF_POINTS, *OF_INSTANCES)  # that a table has beside image, instance, name, x, y and confidence
FIELDS = (
    "keypoints",
    "confidence",
    "covariance",
    "scores",
    "boxes",
    "expected_oks",
    *OF_POINTS,
    "signals",
)  # with a row each


@dataclass
class Prediction:
    """The keypoints of the N instances of one image.

    Attributes:
        image: Name of the image.
        names: Names of the K keypoints.
        keypoints: Points (N, K, 2) in pixels of the original image.
        confidence: Probability (N, K) that a point lies within 5 % of the input's longer side; where the model predicts
            `presence`, that it is there as well. None if the model predicts none.
        covariance: Covariance (N, K, 2, 2) in pixels squared. None if the model predicts none.
        dof: Degrees of freedom of the errors' Student t distribution, for `kpnet.uncertainty.ellipse_radius`; infinite
            for normal errors.
        scores: Scores (N,) of the instances, best first: their probability to be one where the model's scores are
            calibrated. None where nobody looked for them: their boxes were given, or the image is one instance.
        boxes: Boxes (N, 4) of the instances that were found: edges x0, y0, x1, y1 in pixels of the original image, cut
            to it. None where nobody looked for them.
        expected_oks: Object keypoint similarity (N,) that the instances are expected to have. None without calibrated
            scores.
        presence: Probability (N, K) that a point is there: inside the image, and seen. None if the model predicts none.
        radius: Distance (N, K) in pixels of the original image that a point's error stays below, as often as
            `kpnet guarantee` promised. None without a guarantee.
        joint_radius: The same for all points of an instance at once.
        signals: What a watch compares with held-out data, (N, 3 + C): see `kpnet.models.watch.compute_signals`. None
            unless the predictor keeps them.
    """

    image: str
    names: tuple[str, ...]
    keypoints: np.ndarray
    confidence: np.ndarray | None
    covariance: np.ndarray | None
    dof: float = math.inf
    scores: np.ndarray | None = None
    boxes: np.ndarray | None = None
    expected_oks: np.ndarray | None = None
    presence: np.ndarray | None = None
    radius: np.ndarray | None = None
    joint_radius: np.ndarray | None = None
    signals: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> Prediction:
        """Return some of the instances.

        Args:
            rows: Their indices, in the order that they are to have, or a mask (N,).

        Returns:
            A prediction of the same image.
        """
        values = {field: getattr(self, field) for field in FIELDS}
        taken: dict[str, Any] = {field: None if value is None else value[rows] for field, value in values.items()}
        return replace(self, **taken)

    @staticmethod
    def concatenate(parts: Sequence[Prediction]) -> Prediction:
        """Join predictions of one model.

        Args:
            parts: The predictions, at least one.

        Returns:
            All of their instances, in their order, as those of the first one's image.
        """
        known = [field for field in FIELDS if getattr(parts[0], field) is not None]
        joined: dict[str, Any] = {field: np.concatenate([getattr(part, field) for part in parts]) for field in known}
        return replace(parts[0], **joined)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with a row for each point.

        Returns:
            The columns image, instance, name, x, y and confidence (NaN without one); presence, radius and joint_radius
            where the points have them, and score and expected_oks where the instances do.
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
                **{column: values for column in COLUMNS if (values := self.column(column)) is not None},
            }
        )

    def column(self, name: str) -> np.ndarray | None:
        """Return what each point has in a further column of a table.

        Args:
            name: One of presence, radius, joint_radius, score and expected_oks.

        Returns:
            A value (N * K,) for each point, in the order of the table's rows; None where there is none.
        """
        if name in OF_POINTS:
            values = getattr(self, name)
            return None if values is None else values.ravel()
        values = self.scores if name == "score" else self.expected_oks
        return None if values is None else np.repeat(values, self.keypoints.shape[1])

    def to_supervision(self) -> supervision.KeyPoints:
        """Return the points for supervision's annotators and trackers. Needs `kpnet[supervision]`.

        Returns:
            The points, float32 (N, K, 2); absent ones are at 0, 0 and not visible. `data` has names and covariance. Of
            instances that were found, `detection_confidence` has the scores and `data` the boxes as `xyxy`, which
            `supervision.Detections` takes by that name.

        Raises:
            KpnetError: supervision is not installed.
        """
        instances = {BOXES: self.boxes, EXPECTED_OKS: self.expected_oks}
        return to_key_points(self.keypoints, self.confidence, self.covariance, self.names, self.scores, instances)

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
        scores, (boxes, expected) = read_instances(key_points, (BOXES, EXPECTED_OKS))
        return cls(image, own, keypoints, confidence, covariance, scores=scores, boxes=boxes, expected_oks=expected)
