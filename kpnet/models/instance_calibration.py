"""Calibrate the scores of found instances on held-out data.

The probability that a detection is an instance is logistic in the logit of its score and, where the model has one, in
that of the mean confidence of its points (Platt 1999, Probabilistic outputs for support vector machines): three
parameters with a prior, so that a few dozen instances suffice. It never falls where score or confidence rises. Its
expected OKS is logistic in the logit of that probability, fitted to the OKS of the detections.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from kpnet.core.errors import KpnetError

MIN_INSTANCES = 20  # true instances that a calibration is fitted to
CANDIDATES = 0.05  # least score of the detections that it is fitted to
MOST_CONFIDENT = 0.99  # a larger confidence of the points says no more
SMALLEST = 1e-4  # distance of a score from 0 and 1
OFFSET_PRIOR = 3.0  # standard deviation of the offsets
SLOPE_PRIOR = 0.7  # standard deviation of the slopes' logarithms

T = TypeVar("T")


@dataclass(frozen=True)
class InstanceCalibration:
    """A fitted calibration: a function from scores of detections to probabilities, and to their expected OKS.

    Attributes:
        threshold: Probability from which on a detection counts as found: that of the largest F1.
        offset: Log odds of a score of 0.5 whose points have a mean confidence of 0.5.
        slope: What the log odds grow by with those of the score.
        confidence_slope: What they grow by with those of the mean confidence; 0 for a model without one.
        oks_offset: Log odds of the expected OKS at a probability of 0.5.
        oks_slope: What these grow by with those of the probability.
        instances: Number of true instances that it was fitted to.
    """

    threshold: float
    offset: float
    slope: float
    confidence_slope: float
    oks_offset: float
    oks_slope: float
    instances: int

    def __call__(self, prediction: T) -> T:
        """Calibrate the instances that were found in an image.

        Args:
            prediction: A `kpnet.inference.prediction.Prediction` with the raw scores of `model.find`, and the
                confidence of the points, which is calibrated where the model is.

        Returns:
            The same with probabilities as `scores`, and `expected_oks`. Nothing is left out.
        """
        given: Any = prediction
        scores = self.probability(given.scores, given.confidence)
        return cast(T, dataclasses.replace(given, scores=scores, expected_oks=self.expected_oks(scores)))

    def probability(self, scores: np.ndarray, confidence: np.ndarray | None) -> np.ndarray:
        """Return the probability that detections are instances.

        Args:
            scores: Raw scores (N,) of `model.find`.
            confidence: Confidence (N, K) of their points, calibrated where the model is; None without one.

        Returns:
            Probabilities (N,), float64.
        """
        mean = np.full(len(scores), np.nan) if confidence is None else np.asarray(confidence, float).mean(-1)
        log_odds = self.offset + self.slope * _logit(scores)
        if self.confidence_slope:
            log_odds = log_odds + self.confidence_slope * np.nan_to_num(_confidence_logit(mean))
        return _sigmoid(log_odds)

    def expected_oks(self, probability: np.ndarray) -> np.ndarray:
        """Return the OKS (N,) with a true instance that detections of these probabilities (N,) have on average."""
        return _sigmoid(self.oks_offset + self.oks_slope * _logit(probability))

    def least_score(self, threshold: float | None = None) -> float:
        """Return the raw score below which no detection reaches a probability, however confident its points are.

        With it as the threshold of `model.find`, only what may count is cropped and predicted. It is never below 0.05,
        as no lower score was fitted.

        Args:
            threshold: The probability; None: the calibration's own threshold.
        """
        wanted = self.threshold if threshold is None else threshold
        best = self.confidence_slope * float(_logit(np.array(MOST_CONFIDENT)))
        return max(CANDIDATES, float(_sigmoid((_logit(np.array(wanted)) - self.offset - best) / self.slope)))


def fit_instance_calibration(
    scores: np.ndarray,
    confidence: np.ndarray,
    right: np.ndarray,
    oks: np.ndarray,
    instances: int,
) -> InstanceCalibration:
    """Fit a calibration to the detections on data that the model was not trained on.

    Args:
        scores: Raw scores (D,) of all detections that are right or wrong, down to `CANDIDATES`.
        confidence: Mean confidence (D,) of their points; NaN for a model without one.
        right: Whether each is matched to a true instance, bool (D,).
        oks: OKS (D,) of each with a true instance, 0 where there is none.
        instances: Number of true instances, found or not.

    Returns:
        The calibration.

    Raises:
        KpnetError: There are fewer than 20 true instances, or none of them was found.
    """
    if instances < MIN_INSTANCES:
        raise KpnetError(f"calibration of instances: expected at least {MIN_INSTANCES} of them, found {instances}")
    if not right.any():
        raise KpnetError(
            f"calibration of instances: none of the {instances} was found; use data like that of the training, or "
            "train for longer"
        )
    columns = [_logit(scores), *([_confidence_logit(confidence)] if np.isfinite(confidence).all() else [])]
    offset, slopes = _fit_logistic(np.stack(columns, -1), right.astype(float))
    log_odds = offset + np.stack(columns, -1) @ slopes
    oks_offset, (oks_slope,) = _fit_logistic(log_odds[:, None], oks)
    confidence_slope = float(slopes[1]) if len(slopes) > 1 else 0.0
    fitted = InstanceCalibration(
        0.0, offset, float(slopes[0]), confidence_slope, oks_offset, float(oks_slope), instances
    )
    # The gap below the lowest ends where a detection of the least score and the same confidence would be.
    lowest = log_odds.argmin()
    floor = fitted.probability(np.array([CANDIDATES]), confidence[lowest, None, None])[0]
    threshold = best_threshold(_sigmoid(log_odds), right, instances, float(floor))
    return dataclasses.replace(fitted, threshold=threshold)


def best_threshold(scores: np.ndarray, right: np.ndarray, instances: int, floor: float) -> float:
    """Return the threshold of the largest F1 = 2 right / (found + instances), in the middle of a gap between scores.

    Args:
        scores: Scores (D,) of the detections that are right or wrong.
        right: Which of them are right, bool (D,).
        instances: Number of true instances.
        floor: Score below which there are no detections: the end of the gap below the lowest score.

    Returns:
        The threshold; where several gaps have the same F1, that in the widest one.
    """
    order = np.argsort(-scores, kind="stable")
    high = scores[order]
    f1 = 2 * np.cumsum(right[order]) / (np.arange(1, len(order) + 1) + instances)
    gaps = high - np.append(high[1:], floor)
    f1[gaps <= 0] = -1  # no threshold lies between equal scores
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    cut = best[gaps[best].argmax()]
    return float(high[cut] - gaps[cut] / 2)


def _fit_logistic(values: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """Fit the offset and the slopes (F,), all above 0, of a logistic curve through features (D, F) by likelihood."""
    inputs, wanted = torch.from_numpy(values).double(), torch.from_numpy(target).double()
    offset = torch.zeros((), dtype=torch.float64, requires_grad=True)
    # The first feature has about the right odds; the others are not expected to add as much.
    usual = torch.tensor([0.0, *[math.log(0.3)] * (values.shape[1] - 1)], dtype=torch.float64)
    logs = usual.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([offset, logs], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        fit = binary_cross_entropy_with_logits(offset + inputs @ logs.exp(), wanted, reduction="sum")
        prior = (offset / OFFSET_PRIOR).square() / 2 + ((logs - usual) / SLOPE_PRIOR).square().sum() / 2
        loss = (fit + prior) / len(wanted)
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(offset.detach()), logs.detach().exp().numpy()


def _logit(values: np.ndarray) -> np.ndarray:
    inside = np.clip(np.asarray(values, float), SMALLEST, 1 - SMALLEST)
    return np.asarray(np.log(inside / (1 - inside)))


def _confidence_logit(values: np.ndarray) -> np.ndarray:
    return _logit(np.clip(values, 1 - MOST_CONFIDENT, MOST_CONFIDENT))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.asarray(values, float))))
