"""A map's mean, covariance and mass within a circle, against closed forms and dense counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.blobs import log_gaussian, round_blob

from kpnet import decoding
from kpnet.coordinates import normalized_distance_to_pixel, pixel_to_normalized


def test_float64_stays_float64() -> None:
    logits = torch.randn(1, 2, 96, 77, dtype=torch.float64)
    p = decoding.spatial_softmax2d(logits)
    xy = decoding.expected_xy2d(p)
    assert {p.dtype, xy.dtype, decoding.covariance2d(p, xy).dtype} == {torch.float64}
    centres = (2 * torch.arange(77).double() + 1) / 77 - 1
    torch.testing.assert_close(xy[..., 0], (p * centres).sum((-2, -1)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", [(0, 3, 5, 6), (2, 1, 5, 6), (2, 3, 1, 6)])
def test_shapes(shape: tuple[int, ...]) -> None:
    p = decoding.spatial_softmax2d(torch.randn(shape))
    xy = decoding.expected_xy2d(p)
    assert p.shape == shape
    assert xy.shape == (*shape[:2], 2)
    assert decoding.covariance2d(p, xy).shape == (*shape[:2], 2, 2)
    assert decoding.mass_within2d(p, xy, 0.1).shape == shape[:2]
    torch.testing.assert_close(p.sum((-2, -1)), torch.ones(shape[:2]))


# Covariance


@pytest.mark.parametrize("angle", [0.0, 0.5, 2.1])
def test_the_covariance_of_a_rotated_gaussian(angle: float) -> None:
    size, xy = (64, 80), (41.3, 30.8)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    cells = turn @ np.diag([4.0**2, 1.8**2]) @ turn.T
    p = decoding.spatial_softmax2d(log_gaussian(size, xy, cells))
    found = decoding.covariance2d(p, decoding.expected_xy2d(p))[0, 0].numpy()
    scale = np.diag([2 / size[1], 2 / size[0]])  # cells to normalised
    np.testing.assert_allclose(found, scale @ cells @ scale, atol=1e-6)


def test_the_covariance_is_about_the_given_point() -> None:
    p = decoding.spatial_softmax2d(torch.randn(1, 2, 6, 9, dtype=torch.float64))
    mean, other = decoding.expected_xy2d(p), torch.tensor([[[0.2, -0.3], [0.9, 0.9]]], dtype=torch.float64)
    shift = other - mean
    moved = decoding.covariance2d(p, mean) + shift[..., :, None] * shift[..., None, :]
    torch.testing.assert_close(decoding.covariance2d(p, other), moved)


def test_the_covariance_of_a_flat_map_is_a_boxs() -> None:
    p = decoding.spatial_softmax2d(torch.zeros(1, 1, 50, 30))
    expected = torch.diag(torch.tensor([(1 - 1 / 30**2) / 3, (1 - 1 / 50**2) / 3]))
    torch.testing.assert_close(decoding.covariance2d(p, torch.zeros(1, 1, 2))[0, 0], expected, atol=1e-5, rtol=0)


# Mass within a circle


def dense_mass(p: np.ndarray, centre: tuple[float, float], radius: float, fine: int = 16) -> float:
    """Each cell's share inside the circle, counted on a fine grid; everything in cells."""
    h, w = p.shape
    y = (np.arange(h * fine) + 0.5) / fine - 0.5
    x = (np.arange(w * fine) + 0.5) / fine - 0.5
    inside = (x[None] - centre[0]) ** 2 + (y[:, None] - centre[1]) ** 2 <= radius**2
    return float((p * inside.reshape(h, fine, w, fine).mean((1, 3))).sum())


@pytest.mark.parametrize("size", [(24, 24), (24, 40), (56, 32)])
# First order in the cell: a circle of 1.2 cells (5 % of a 24-cell map) may be 0.03 off.
@pytest.mark.parametrize(("radius", "tolerance"), [(0.05, 0.04), (0.1, 0.012), (0.3, 0.012)])
def test_mass_within_is_what_a_fine_grid_counts(size: tuple[int, int], radius: float, tolerance: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(6):
        centre = (rng.uniform(0, size[1] - 1), rng.uniform(0, size[0] - 1))
        peak = (centre[0] + rng.normal(), centre[1] + rng.normal())
        for logits in (torch.zeros(1, 1, *size), round_blob(size, peak, rng.uniform(1, 4))):
            p = decoding.spatial_softmax2d(logits.double())
            xy = pixel_to_normalized(torch.tensor([[centre]], dtype=torch.float64), size)
            found = decoding.mass_within2d(p, xy, radius).item()
            assert found == pytest.approx(dense_mass(p[0, 0].numpy(), centre, radius * max(size)), abs=tolerance)


def test_mass_within_in_the_limits() -> None:
    sure = torch.zeros(1, 1, 24, 40)
    sure[..., 7, 30] = 1
    there = pixel_to_normalized(torch.tensor([[[30.0, 7.0]]]), (24, 40))
    away = pixel_to_normalized(torch.tensor([[[36.0, 7.0]]]), (24, 40))
    assert decoding.mass_within2d(sure, there, 0.05).item() == 1
    assert decoding.mass_within2d(sure, away, 0.1).item() == 0
    flat = torch.full((1, 1, 96, 96), 1 / 96**2)
    area = math.pi * 0.2**2
    assert decoding.mass_within2d(flat, torch.zeros(1, 1, 2), 0.2).item() == pytest.approx(area, rel=0.005)
    # A quarter of the circle lies on the image at its corner; all of the image in a circle round it.
    assert decoding.mass_within2d(flat, -torch.ones(1, 1, 2), 0.2).item() == pytest.approx(area / 4, rel=0.01)
    assert decoding.mass_within2d(flat, torch.zeros(1, 1, 2), 1.0).item() == pytest.approx(1, abs=1e-5)


def test_mass_within_is_a_circle_in_pixels_not_in_normalised_units() -> None:
    """6 cells to the right and 6 cells down count alike on a map that is not square."""
    size = (24, 48)
    centre = pixel_to_normalized(torch.tensor([[[20.0, 10.0]]]), size)
    for shift, expected in (((6, 0), 1), ((0, 6), 1), ((9, 0), 0), ((0, 9), 0)):
        p = torch.zeros(1, 1, *size)
        p[..., 10 + shift[1], 20 + shift[0]] = 1
        assert decoding.mass_within2d(p, centre, 7.5 / 48).item() == expected
        offset = normalized_distance_to_pixel(decoding.expected_xy2d(p) - centre, size)
        torch.testing.assert_close(offset[0, 0], torch.tensor(shift).float(), atol=1e-4, rtol=0)


def test_mass_within_has_finite_gradients_at_a_cells_centre() -> None:
    p = decoding.spatial_softmax2d(torch.zeros(1, 1, 3, 3))
    xy = torch.zeros(1, 1, 2, requires_grad=True)
    decoding.mass_within2d(p, xy, 0.4).sum().backward()
    assert xy.grad is not None
    assert xy.grad.isfinite().all()
