"""How boxes move: laws that hold for all boxes, points and transforms."""

from __future__ import annotations

import warnings

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kpnet.data.transforms.boxes import corners_of, hull_of_corners, moved_boxes

PARTS = st.lists(st.floats(-0.2, 1.2), min_size=2, max_size=2)
POINTS = st.lists(PARTS, min_size=1, max_size=5).map(np.array)
BOXES = st.tuples(st.floats(-50, 50), st.floats(-50, 50), st.floats(1, 80), st.floats(1, 80))


def case(box: tuple[float, ...], parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A box (1, 4) and points (1, K, 2) in and about it."""
    x, y, w, h = box
    return np.array([[x, y, x + w, y + h]]), (np.array([x, y]) + parts * (w, h))[None]


@given(BOXES, POINTS, st.sampled_from([-1.0, 1.0]), st.floats(0.2, 4), st.floats(0.2, 4), st.integers(0, 3))
def test_exact_where_the_moved_box_is_a_box(
    box: tuple[float, ...], parts: np.ndarray, mirror: float, wider: float, higher: float, turns: int
) -> None:
    boxes, points = case(box, parts)
    matrix = np.linalg.matrix_power(np.array([[0.0, -1.0], [1.0, 0.0]]), turns) @ np.diag([mirror * wider, higher])
    corners = corners_of(boxes) @ matrix.T + (3.0, -7.0)
    moved = moved_boxes(points, points @ matrix.T + (3.0, -7.0), boxes, corners)
    np.testing.assert_allclose(moved, hull_of_corners(corners), atol=1e-6)


@given(BOXES, st.floats(-np.pi, np.pi), st.floats(0.2, 4))
def test_never_larger_than_the_box_around_the_corners_of_a_turned_box(
    box: tuple[float, ...], angle: float, scale: float
) -> None:
    """For points at the middles of its edges, which touch the box on all sides."""
    boxes, points = case(box, np.array([[0, 0.5], [1, 0.5], [0.5, 0], [0.5, 1]]))
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = corners_of(boxes) @ matrix.T
    moved, after = moved_boxes(points, points @ matrix.T, boxes, corners), points @ matrix.T
    hull = hull_of_corners(corners)
    assert (moved[:, :2] >= hull[:, :2] - 1e-6).all()
    assert (moved[:, 2:] <= hull[:, 2:] + 1e-6).all()
    np.testing.assert_allclose(moved, [[*after.min(1)[0], *after.max(1)[0]]], atol=1e-6)  # without a margin


@given(BOXES, POINTS, st.floats(-np.pi, np.pi))
def test_a_turn_and_back_ends_where_it_began_for_a_single_point(
    box: tuple[float, ...], parts: np.ndarray, angle: float
) -> None:
    """A box always has an area, and its point stays within its margins."""
    boxes, points = case(box, np.clip(parts[:1], 0, 1))
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = moved_boxes(points, points @ matrix.T, boxes, corners_of(boxes) @ matrix.T)
    assert (moved[:, 2:] > moved[:, :2]).all()
    after = (points @ matrix.T)[0, 0]
    assert (after >= moved[0, :2] - 1e-6).all()
    assert (after <= moved[0, 2:] + 1e-6).all()


def test_lost_points_leave_the_corners_and_lost_corners_nothing() -> None:
    boxes, points = np.array([[0.0, 0.0, 10.0, 4.0]]), np.array([[[2.0, 2.0]]])
    corners = corners_of(boxes) + 5.0
    lost = np.full((1, 1, 2), np.nan)
    np.testing.assert_array_equal(moved_boxes(points, lost, boxes, corners), boxes + 5)
    assert np.isnan(moved_boxes(points, lost, boxes, corners * np.nan)).all()
    assert moved_boxes(points[:0], points[:0], boxes[:0], corners[:0]).shape == (0, 4)


@given(st.floats(-np.pi, np.pi), st.floats(1, 50))
def test_equal_margins_stay_as_they_are_in_any_turn(angle: float, margin: float) -> None:
    points = np.array([[[3.0, 4.0]]])
    boxes = np.array([[3 - margin, 4 - margin, 3 + margin, 4 + margin]])
    matrix = 2 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = moved_boxes(points, points @ matrix.T, boxes, corners_of(boxes) @ matrix.T)
    np.testing.assert_allclose(moved[:, 2:] - moved[:, :2], 4 * margin, rtol=1e-6)


def test_margins_are_those_around_the_points_that_are_not_lost() -> None:
    """Around the left point alone, the box reaches 1 to the left and 11 to the right."""
    points, boxes = np.array([[[2.0, 2.0], [12.0, 2.0]]]), np.array([[1.0, 0.0, 13.0, 4.0]])
    after = points + 5
    after[0, 1] = np.nan
    np.testing.assert_allclose(moved_boxes(points, after, boxes, corners_of(boxes) + 5), boxes + 5)


def test_a_box_without_area_moves_silently() -> None:
    points, boxes = np.array([[[2.0, 2.0]]]), np.array([[2.0, 2.0, 2.0, 2.0]])
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        moved = moved_boxes(points, points + 5, boxes, corners_of(boxes) + 5)
    np.testing.assert_array_equal(moved, boxes + 5)
