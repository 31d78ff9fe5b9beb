"""Identities over time: crossings, gaps, permutations and limits, with noise that the tests draw."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.inference.prediction import Prediction
from kpnet.inference.tracking import KEPT, Tracker

NAMES = ("a", "b", "c", "d")
SKELETON = Skeleton(NAMES)
SHAPE = np.array([[-20.0, -20], [20, -20], [20, 20], [-20, 20]])


def frame(
    places: Iterable[tuple[float, float]],
    std: float | np.ndarray = 1.0,
    noise: np.random.Generator | None = None,
    scores: np.ndarray | None = None,
) -> Prediction:
    """Squares of four points at these places, with errors of `std` (N, K) pixels if `noise` is given."""
    points = np.array(list(places), float).reshape(-1, 1, 2) + SHAPE
    std = np.broadcast_to(std, points.shape[:2])
    if noise is not None:
        points = points + noise.normal(size=points.shape) * std[..., None]
    covariance = np.square(std)[..., None, None] * np.eye(2)
    return Prediction("", NAMES, points, None, covariance, scores=scores)


def test_two_that_cross_keep_their_identities() -> None:
    """They meet at one place with the same shape: only their motion tells them apart."""
    draw = np.random.default_rng(0)
    tracker = Tracker(SKELETON)
    for t in range(81):
        ids = tracker.update(frame([(4.0 * t, 100 + t / 10), (320 - 4.0 * t, 100 - t / 10)], noise=draw))
        assert ids.tolist() == [0, 1], t


def test_hidden_points_do_not_decide() -> None:
    """Three points of the second lie on the first one's, which moved on; their covariance says if they are hidden."""
    for std, expected in ((40.0, [0, 1]), (1.0, [1, 0])):
        tracker = Tracker(SKELETON)
        for _ in range(20):
            tracker.update(frame([(100, 100), (130, 100)]))
        prediction = frame([(115, 100), (130, 100)], np.array([[1.0] * 4, [std, std, std, 1]]))
        prediction.keypoints[1, :3] = SHAPE[:3] + 100
        assert tracker.update(prediction).tolist() == expected


@pytest.mark.parametrize("gap", [1, 10, 29])
def test_a_gap_is_bridged(gap: int) -> None:
    tracker = Tracker(SKELETON)
    for t in range(20):
        assert tracker.update(frame([(100, 100), (100 + 3 * t, 300)])).tolist() == [0, 1]
    for _ in range(gap):
        assert tracker.update(frame([(100, 100)])).tolist() == [0]
        assert not tracker.uncertain.any()
    assert tracker.update(frame([(157 + 2 * gap, 300), (100, 100)])).tolist() == [1, 0]
    assert not tracker.uncertain.any()


def test_an_identity_after_a_long_absence_is_a_guess() -> None:
    for limit, guess in ((None, True), (2, False)):  # of two, only one can be missing
        tracker = Tracker(SKELETON, max_instances=limit)
        for _ in range(5):
            tracker.update(frame([(100, 100), (300, 300)]))
        for _ in range(200):
            tracker.update(frame([(100, 100)]))
        assert tracker.update(frame([(100, 100), (330, 310)])).tolist() == [0, 1]
        assert tracker.uncertain.tolist() == [False, guess]
    tracker = Tracker(SKELETON)
    tracker.update(frame([(100, 100)]))
    for _ in range(100):
        tracker.update(frame([]))
    assert tracker.update(frame([(900, 900)])).tolist() == [1], "it is another one, far away"


def test_one_where_two_may_be_is_a_guess() -> None:
    """Two stand where they overlap, and one of them is found in the middle."""
    tracker = Tracker(SKELETON)
    for _ in range(20):
        assert tracker.update(frame([(100, 100), (130, 100)])).tolist() == [0, 1]
    assert not tracker.uncertain.any()
    tracker.update(frame([(115, 100)]))
    assert tracker.uncertain.tolist() == [True]


def test_the_order_of_the_instances_changes_nothing() -> None:
    draw, order = np.random.default_rng(1), np.random.default_rng(2)
    places = draw.uniform(0, 400, (6, 2))
    speed = draw.uniform(-4, 4, (6, 2))
    one, other = Tracker(SKELETON), Tracker(SKELETON)
    first = frame(places)
    assert one.update(first).tolist() == other.update(first).tolist()
    for t in range(1, 60):
        prediction = frame(places + t * speed, noise=draw).take(draw.random(6) > 0.2)
        rows = order.permutation(len(prediction.keypoints))
        # New identities are numbered in the order of the instances, so that none may appear here.
        assert one.update(prediction)[rows].tolist() == other.update(prediction.take(rows)).tolist(), t
        assert one.uncertain[rows].tolist() == other.uncertain.tolist()
    assert set(one.update(frame(places + 60 * speed))) == set(range(6))


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), limit=st.integers(1, 4))
def test_never_more_identities_than_max_instances(seed: int, limit: int) -> None:
    draw = np.random.default_rng(seed)
    tracker, seen = Tracker(SKELETON, max_instances=limit), set()
    for _ in range(40):
        count = draw.integers(0, 6)
        scores = draw.random(count)
        ids = tracker.update(frame(draw.uniform(0, 500, (count, 2)), scores=scores))
        given_ids = ids[ids >= 0]
        assert len(set(given_ids.tolist())) == len(given_ids) == min(count, limit)
        if count > limit:
            assert scores[ids >= 0].min() > scores[ids < 0].max(), "the best are used"
        assert not tracker.uncertain[ids < 0].any()
        seen |= set(given_ids.tolist())
    assert seen == set(range(limit))


def test_a_false_instance_elsewhere_does_not_move_an_identity() -> None:
    tracker = Tracker(SKELETON, max_instances=2)
    for _ in range(10):
        tracker.update(frame([(100, 100), (300, 100)]))
    assert tracker.update(frame([(100, 100), (800, 800)])).tolist() == [0, 1]
    assert tracker.uncertain.tolist() == [False, True]
    assert tracker.update(frame([(300, 100), (100, 100)])).tolist() == [1, 0]
    assert not tracker.uncertain.any()
    assert len(tracker._ids) == 2, "where it was not is forgotten"


def test_the_speed_of_a_new_instance_is_not_known() -> None:
    """A step that no steady instance makes is none to guess at in the second frame, as its expectation is wide."""
    for frames, guess in ((1, False), (40, True)):
        tracker = Tracker(SKELETON)
        for _ in range(frames):
            tracker.update(frame([(100, 100), (190, 100)]))
        assert tracker.update(frame([(125, 100), (215, 100)])).tolist() == [0, 1]
        assert tracker.uncertain.tolist() == [guess] * 2


def test_memory_is_constant() -> None:
    tracker = Tracker(SKELETON)
    for t in range(3 * KEPT):
        tracker.update(frame([(1000.0 * t, 0)]))
    assert len(tracker._ids) <= KEPT


def test_predictions_without_covariance_or_with_missing_points() -> None:
    tracker = Tracker(SKELETON)
    for t in range(10):
        prediction = frame([(100 + t, 100), (300, 100), (0, 0)])
        prediction.covariance = None
        prediction.keypoints[0, t % 4] = np.nan
        prediction.keypoints[2] = np.nan
        assert tracker.update(prediction).tolist() == [0, 1, -1]
    with pytest.raises(KpnetError, match="max_instances: expected a number of at least 1, found 0"):
        Tracker(SKELETON, max_instances=0)
