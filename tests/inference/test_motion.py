"""The Kalman filters of instances, against what is known of their motion."""

from __future__ import annotations

import numpy as np

from kpnet.inference.motion import Motion

SHAPE = np.array([[-20.0, 0], [20, 0], [0, 30]])


def seen(place: np.ndarray, std: np.ndarray, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, their covariances and the size of an instance at a place."""
    points = place + SHAPE + draw.normal(size=SHAPE.shape) * std[:, None]
    return points[None], (np.square(std)[:, None, None] * np.eye(2))[None], np.array([50.0])


def test_steady_motion_is_predicted_better_than_it_is_seen() -> None:
    draw, std = np.random.default_rng(0), np.full(3, 2.0)
    velocity, errors = np.array([3.0, -2.0]), []
    motion = Motion.start(*seen(np.zeros(2), std, draw))
    for t in range(1, 200):
        motion.predict(np.zeros(1, bool))
        expected, covariance = motion.points()
        if t > 50:
            errors.append(expected[0] - (SHAPE + velocity * t))
            assert (np.linalg.eigvalsh(covariance) > 0).all()
        motion.update(np.array([0]), *seen(velocity * t, std, draw))
    assert np.abs(motion.centre[0, 2:] - velocity).max() < 0.2
    assert np.sqrt(np.square(errors).mean()) < 0.9 * 2.0


def test_hidden_points_are_carried_along() -> None:
    """One point is seen, the others are hidden, or missing, while the instance moves on."""
    draw = np.random.default_rng(1)
    for hidden in (1e3, np.nan):
        motion = Motion.start(*seen(np.zeros(2), np.full(3, 0.5), draw))
        for t in range(1, 61):
            motion.predict(np.zeros(1, bool))
            std = np.full(3, 0.5) if t <= 30 else np.array([0.5, hidden, hidden])
            points, noise, size = seen(np.array([4.0 * t, 0]), np.nan_to_num(std), draw)
            points[0, np.isnan(std)] = np.nan
            motion.update(np.array([0]), points, noise, size)
        expected, covariance = motion.points()
        assert np.abs(expected[0] - (SHAPE + np.array([240, 0]))).max() < 6
        assert covariance[0, 1, 0, 0] > 4 * covariance[0, 0, 0, 0], "it knows less of the hidden ones"


def test_a_point_that_is_wrong_moves_the_instance_little() -> None:
    draw = np.random.default_rng(2)
    motion = Motion.start(*seen(np.zeros(2), np.ones(3), draw))
    for _ in range(20):
        motion.predict(np.zeros(1, bool))
        motion.update(np.array([0]), *seen(np.zeros(2), np.ones(3), draw))
    motion.predict(np.zeros(1, bool))
    points, noise, size = seen(np.zeros(2), np.ones(3), draw)
    points[0, 2] += 200
    motion.update(np.array([0]), points, noise, size)
    assert np.abs(motion.points()[0][0] - SHAPE).max() < 5


def test_an_unseen_instance_becomes_vague_and_slows_down() -> None:
    motion = Motion.start(*seen(np.zeros(2), np.ones(3), np.random.default_rng(3)))
    motion.centre[0, 2:] = 10
    wide = []
    for _ in range(60):
        motion.predict(np.ones(1, bool))
        wide.append(motion.points()[1][0, 0, 0, 0])
    assert (np.diff(wide) > 0).all()
    assert np.abs(motion.centre[0, 2:]).max() < 0.1


def test_rows_are_independent() -> None:
    draw = np.random.default_rng(4)
    one, other = (seen(np.array(place), np.ones(3), draw) for place in ((0.0, 0), (500.0, 0)))
    alone = Motion.start(*one)
    both = alone.join(Motion.start(*other))
    assert len(both) == 2
    later = seen(np.array([3.0, 1]), np.ones(3), draw)
    for motion in (alone, both):
        motion.predict(np.zeros(len(motion), bool))
        motion.update(np.array([0]), *later)
    np.testing.assert_allclose(both.keep(np.array([0])).points()[0], alone.points()[0])
