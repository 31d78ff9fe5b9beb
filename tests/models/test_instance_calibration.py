"""Calibration of found instances, on detections whose probabilities are known."""

from __future__ import annotations

import numpy as np
import pytest

from kpnet.core.errors import KpnetError
from kpnet.inference.prediction import Prediction
from kpnet.models.instance_calibration import InstanceCalibration, best_threshold, fit_instance_calibration


def logit(p: np.ndarray) -> np.ndarray:
    return np.log(p / (1 - p))


def detections(
    count: int, offset: float, slope: float, confidence_slope: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, mean confidences, and which are right: with the odds that the parameters say."""
    rng = np.random.default_rng(seed)
    scores, confidence = rng.uniform(0.05, 0.95, count), rng.uniform(0.1, 0.95, count)
    odds = offset + slope * logit(scores) + confidence_slope * logit(confidence)
    return scores, confidence, rng.uniform(size=count) < 1 / (1 + np.exp(-odds))


def test_finds_the_logistic_that_made_the_detections() -> None:
    scores, confidence, right = detections(20_000, -0.8, 1.4, 0.6)
    oks = np.where(right, 0.8, 0.0)
    found = fit_instance_calibration(scores, confidence, right, oks, int(right.sum()))
    assert found.offset == pytest.approx(-0.8, abs=0.07)
    assert found.slope == pytest.approx(1.4, abs=0.07)
    assert found.confidence_slope == pytest.approx(0.6, abs=0.07)
    # The closed form: 0.8 of the probability.
    probability = found.probability(scores, confidence[:, None])
    assert np.abs(found.expected_oks(probability) - 0.8 * probability).mean() < 0.04
    assert found.expected_oks(probability).mean() == pytest.approx(oks.mean(), abs=0.005)


def test_another_sample_has_the_probabilities_that_were_fitted() -> None:
    """A tenth of the detections with the least probability is right as often as it says, and so on."""
    scores, confidence, right = detections(3000, 0.5, 0.7, 1.0)
    found = fit_instance_calibration(scores, confidence, right, right.astype(float), int(right.sum()))
    scores, confidence, right = detections(20_000, 0.5, 0.7, 1.0, seed=1)
    probability = found.probability(scores, np.stack([confidence, confidence], 1))
    for part in np.array_split(np.argsort(probability), 10):
        assert right[part].mean() == pytest.approx(probability[part].mean(), abs=0.04)


def test_a_model_without_confidence_has_scores_alone() -> None:
    scores, _, right = detections(20_000, -0.5, 1.2, 0.0)
    nothing = np.full(len(scores), np.nan)
    found = fit_instance_calibration(scores, nothing, right, right.astype(float), int(right.sum()))
    assert found.confidence_slope == 0
    assert found.slope == pytest.approx(1.2, abs=0.05)
    assert found.probability(np.array([0.5]), None)[0] == pytest.approx(1 / (1 + np.exp(0.5)), abs=0.02)


def test_few_detections_that_are_all_right_leave_finite_parameters() -> None:
    scores = np.linspace(0.6, 0.99, 20)
    found = fit_instance_calibration(scores, np.full(20, 0.9), np.ones(20, bool), np.full(20, 0.95), 20)
    assert abs(found.offset) < 10
    probability = found.probability(scores, np.full((20, 3), 0.9))
    assert (np.diff(probability) > 0).all(), "it rises with the score"
    assert probability[0] > 0.8
    assert 0 < found.threshold < probability[0]


def test_no_score_below_the_least_reaches_the_threshold() -> None:
    calibration = InstanceCalibration(0.6, -0.3, 1.3, 0.5, 0.0, 1.0, 50)
    least = calibration.least_score()
    sure = np.full((1, 4), 1.0)
    assert calibration.probability(np.array([least + 1e-3]), sure) > 0.6
    assert calibration.probability(np.array([least - 1e-3]), sure) < 0.6
    assert calibration.least_score(0.2) < least


@pytest.mark.parametrize("confident", [0.9, np.nan])
def test_the_threshold_is_not_below_what_was_fitted(confident: float) -> None:
    """40 right detections and no false one: the threshold is that of a raw score from 0.05 up to their lowest."""
    scores, confidence = np.linspace(0.07, 0.9, 40), np.full(40, confident)
    found = fit_instance_calibration(scores, confidence, np.ones(40, bool), np.full(40, 0.9), 40)
    points = None if np.isnan(confident) else np.full((2, 3), confident)
    least, lowest = found.probability(np.array([0.05, 0.07]), points)
    assert least < found.threshold < lowest
    assert found.least_score() >= 0.05
    assert found.least_score(1e-3) == 0.05


@pytest.mark.parametrize(
    ("scores", "right", "instances", "expected"),
    [
        ([0.9, 0.8, 0.3, 0.2], [1, 1, 0, 0], 2, 0.55),  # between the last right and the first false
        ([0.9, 0.8], [1, 1], 2, 0.4),  # nothing false: the middle of what is below
        ([0.9, 0.9, 0.4], [1, 0, 0], 1, 0.65),  # equal scores cannot be told apart
        ([0.9, 0.5, 0.1], [0, 1, 1], 2, 0.05),  # one that is false and best costs less than two that are missed
    ],
)
def test_the_threshold_has_the_largest_f1(
    scores: list[float], right: list[int], instances: int, expected: float
) -> None:
    assert best_threshold(np.array(scores), np.array(right, bool), instances, 0.0) == pytest.approx(expected)


def test_of_equal_f1_the_widest_gap_is_taken() -> None:
    """Two of two found and two false, or one of two found and none false: F1 is 2/3 both times."""
    scores, right = np.array([0.9, 0.6, 0.5, 0.1]), np.array([True, False, False, True])
    assert best_threshold(scores, right, 2, 0.09) == pytest.approx(0.75)
    assert best_threshold(scores, right, 2, -1.0) == pytest.approx(-0.45)


def test_too_little_data_is_named() -> None:
    right = np.ones(5, bool)
    with pytest.raises(KpnetError, match="at least 20 of them, found 5"):
        fit_instance_calibration(np.full(5, 0.5), np.full(5, 0.5), right, right.astype(float), 5)
    with pytest.raises(KpnetError, match="none of the 30 was found"):
        fit_instance_calibration(np.zeros(0), np.zeros(0), np.zeros(0, bool), np.zeros(0), 30)


def test_a_prediction_is_calibrated_as_a_whole() -> None:
    calibration = InstanceCalibration(0.5, 1.0, 2.0, 0.0, -1.0, 1.0, 30)
    raw = Prediction("a.png", ("a",), np.zeros((2, 1, 2)), None, None, scores=np.array([0.5, 0.2]))
    found = calibration(raw)
    assert found.scores == pytest.approx([1 / (1 + np.exp(-1.0)), 1 / (1 + np.exp(-1 - 2 * np.log(0.25)))])
    assert found.expected_oks == pytest.approx(calibration.expected_oks(found.scores))
    assert raw.scores is not None
    assert raw.scores.tolist() == [0.5, 0.2]
