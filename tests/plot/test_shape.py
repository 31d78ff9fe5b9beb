"""The mean of instances that turn, move and grow is the shape that they are copies of."""

from __future__ import annotations

import numpy as np
import pytest

from kpnet.plot.shape import mean_shape

SHAPE = np.array([[0, 0], [40, 5], [70, -10], [75, 30], [20, 25]], float)


def copies(shape: np.ndarray, angles: np.ndarray, sizes: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Copies (N, K, 2) of a shape, each with its angle and size, at random places."""
    cos, sin, side = np.cos(angles), np.sin(angles), np.where(mirrored, -1, 1)
    turns = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    middles = np.random.default_rng(0).uniform(0, 500, (len(angles), 1, 2))
    flipped = shape * np.stack([side, np.ones(len(angles))], -1)[:, None]
    return sizes[:, None, None] * np.einsum("nij,nkj->nki", turns, flipped) + middles


def distances(shape: np.ndarray) -> np.ndarray:
    """Distances between all points (K, K): the same whatever the angle and place."""
    return np.asarray(np.linalg.norm(shape[:, None] - shape[None], axis=-1))


@pytest.mark.parametrize("mirror", [False, True])
def test_turned_copies_have_the_shape_as_their_mean(mirror: bool) -> None:
    generator = np.random.default_rng(1)
    points = copies(SHAPE, generator.uniform(0, 7, 31), np.linspace(0.5, 1.5, 31), generator.random(31) < mirror / 3)
    points[generator.random((31, 5)) < 0.15] = np.nan
    np.testing.assert_allclose(distances(mean_shape(points)), distances(SHAPE), atol=1e-6)


def test_instances_that_stand_upright_have_an_upright_mean() -> None:
    points = copies(SHAPE, np.linspace(-0.3, 0.3, 9), np.ones(9), np.arange(9) % 8 == 0)
    points += np.random.default_rng(2).normal(0, 0.5, points.shape)
    found, true = mean_shape(points), SHAPE
    np.testing.assert_allclose(found - found.mean(0), true - true.mean(0), atol=2)


@pytest.mark.parametrize(
    ("points", "mean"),
    [
        ([[[1, 2]], [[3, 6]]], [[2, 4]]),
        ([[[1, 2], [np.nan] * 2], [[np.nan] * 2, [5, 6]]], [[1, 2], [5, 6]]),
        ([[[1, 2], [1, 2]], [[3, 4], [3, 4]]], [[2, 3], [2, 3]]),
        ([[[np.nan, np.nan]]], [[np.nan, np.nan]]),
        ([[[0, 0], [2, 0], [np.nan] * 2]] * 2, [[-1, 0], [1, 0], [np.nan] * 2]),
    ],
    ids=["one point", "never together", "on each other", "no label", "one never labelled"],
)
def test_what_cannot_be_aligned(points: list[list[list[float]]], mean: list[list[float]]) -> None:
    found, expected = mean_shape(np.array(points, float)), np.array(mean, float)
    shift = 0 if len(mean) < 3 else np.nanmean(found, 0) - np.nanmean(expected, 0)
    np.testing.assert_allclose(found - shift, expected, atol=1e-9)
