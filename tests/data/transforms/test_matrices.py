"""Matrices of geometric transforms: their algebra. Where they move an image is tested in `test_augment.py`."""

from __future__ import annotations

import numpy as np
import pytest

from kpnet.data.transforms.matrices import mirrors, project


def test_a_negative_determinant_mirrors() -> None:
    matrices = np.random.default_rng(0).normal(size=(200, 3, 3))
    assert [mirrors(matrix) for matrix in matrices] == (np.linalg.det(matrices) < 0).tolist()


@pytest.mark.parametrize("horizon", [(0, 0, 2), (0.01, 0, 1), (0, 0.01, 1), (0.01, -0.02, 1.5)])
def test_points_are_projected_as_homogeneous_coordinates(horizon: tuple[float, float, float]) -> None:
    matrix = np.array([[1.1, 0.2, 3], [-0.1, 0.9, 5], horizon])
    xy = np.array([[10.0, 8], [20, 30]])
    x, y, w = matrix @ np.column_stack([xy, np.ones(2)]).T
    np.testing.assert_allclose(project(xy, matrix), np.column_stack([x / w, y / w]))
