"""Whether the errors on calibration data and on other data differ, where the calibration would not hold then."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu

from kpnet.coordinates import Size, normalized_distance_to_pixel
from kpnet.core.errors import KpnetError
from kpnet.evaluation.measurement import Predictions

LEVEL = 0.05  # of the test


@dataclass(frozen=True)
class Difficulty:
    """How large the errors of the images of two data sets are.

    Attributes:
        images: Number of images of each that have a labelled point.
        medians: Median over the images of the median error of their points, in pixels of the input.
        p: How likely a difference as large as this one is among images of the same kind: two-sided Mann-Whitney test.
    """

    images: tuple[int, int]
    medians: tuple[float, float]
    p: float

    @property
    def differs(self) -> bool:
        """Whether the two differ, at a level of 5 %."""
        return self.p < LEVEL

    def describe(self, names: tuple[str, str]) -> str:
        """Return the comparison as a sentence without its end; `names` are those of the two data sets."""
        parts = (
            f"{median:.3f} px on {name} ({count} images)"
            for name, median, count in zip(names, self.medians, self.images, strict=True)
        )
        verdict = "no difference is found"
        if self.differs:
            how = "shy" if self.medians[0] > self.medians[1] else "sure"
            verdict = f"they differ, so the calibrated model may be too {how} on {names[1]}"
        return f"median error of an image: {' and '.join(parts)}: {verdict} (Mann-Whitney test, p = {self.p:.2g})"


def compare_difficulty(one: Predictions, other: Predictions, size: Size) -> Difficulty:
    """Compare the errors on two data sets, image by image, as the errors of one image correlate.

    Args:
        one: Predictions for the data of the calibration.
        other: Predictions for other data.
        size: Input size of the model (H, W).

    Returns:
        The comparison.

    Raises:
        KpnetError: One of them has no labelled point.

    Example:
        ```python
        compare_difficulty(predict_dataset(model, held_out), predict_dataset(model, val), (96, 96)).differs
        ```
    """
    errors = image_errors(one, size), image_errors(other, size)
    if not all(map(len, errors)):
        raise KpnetError("no point is labelled")
    medians = float(np.median(errors[0])), float(np.median(errors[1]))
    return Difficulty((len(errors[0]), len(errors[1])), medians, float(mannwhitneyu(*errors).pvalue))


def image_errors(predictions: Predictions, size: Size) -> np.ndarray:
    """Return the median error (I,) of the points of each image that has labelled ones, in pixels of the input."""
    errors = normalized_distance_to_pixel((predictions.predicted.keypoints - predictions.target).double(), size)
    distance = errors.norm(dim=-1).numpy()
    labelled = predictions.visible.numpy()
    of_point = np.broadcast_to(predictions.images[:, None], distance.shape)[labelled]
    return pd.Series(distance[labelled]).groupby(of_point).median().to_numpy()
