"""Labels that stand out from errors that are correlated, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from kpnet.evaluation.outliers import correlate, find_outliers, shape_distances, whiten


def test_whitened_errors_have_the_mahalanobis_distance() -> None:
    covariance = np.array([[[[4.0, 1.0], [1.0, 2.0]]]])
    error = np.array([[[3.0, -1.0]]])
    expected = error[0, 0] @ np.linalg.inv(covariance[0, 0]) @ error[0, 0]
    assert np.square(whiten(error, covariance)).sum() == pytest.approx(expected)


def test_the_correlation_of_many_samples() -> None:
    """Two points move together, a third alone: 0.8 of the variance of the two is common."""
    draws = np.random.default_rng(0)
    errors = draws.normal(size=(20_000, 3, 2))
    errors[:, :2] = np.sqrt(0.8) * draws.normal(size=(20_000, 1, 2)) + np.sqrt(0.2) * errors[:, :2]
    errors[:200] = 1000  # clipped
    found = correlate(errors)
    assert found[0, 2] == pytest.approx(0.95 * 0.8, abs=0.1)
    assert found[0, 4] == pytest.approx(0, abs=0.1)


def test_a_difference_stands_out_where_errors_are_common() -> None:
    """Both points 4 standard deviations off are one event; one of them alone is far from what the other says."""
    common = np.kron(np.array([[1.0, 0.9], [0.9, 1.0]]), np.eye(2))
    together, alone = np.array([[4.0, 0], [4.0, 0]]), np.array([[4.0, 0], [0.0, 0]])
    assert not find_outliers(together, common)[0]
    off, rest = find_outliers(alone, common)
    assert off[0] == pytest.approx(4 / np.sqrt(1 - 0.9**2))  # the standard deviation given the other
    assert rest == pytest.approx(0)
    assert not find_outliers(alone, np.eye(4))[0]


def test_missing_labels_are_left_out_of_it() -> None:
    errors = np.array([[np.nan, np.nan], [0.5, 0], [9.0, 0], [0, 0.5]])
    off, rest = find_outliers(errors, np.eye(8))
    assert list(off) == [2]
    assert rest == pytest.approx(0.5 / 4)


def test_a_label_that_is_odd_in_the_shape_whatever_the_image_shows() -> None:
    draws = np.random.default_rng(0)
    shape = draws.uniform(0, 100, (6, 2))
    labels = shape + draws.normal(0, 1, (50, 6, 2))
    labels[4] = 3 * labels[4] @ np.array([[0.0, 1.0], [-1.0, 0.0]]) + 20  # turned and larger: the same shape
    labels[7, 2] += 25
    labels[9, 3:] = np.nan
    found = shape_distances(labels)
    assert found[4].max() < 4
    assert found[7].argmax() == 2
    assert found[7, 2] > 8
    assert np.isnan(found[9]).all()
    assert np.isfinite(np.delete(found, 9, 0)).all()
