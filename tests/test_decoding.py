"""Maps to coordinates, against closed forms and dense counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kpnet import decoding
from kpnet.coordinates import normalized_distance_to_pixel, normalized_to_pixel, pixel_to_normalized


def log_gaussian(size: tuple[int, int], xy: tuple[float, float], covariance: np.ndarray) -> Tensor:
    """Log of a Gaussian (1, 1, h, w) about a continuous cell, float64."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    d = np.stack([x - xy[0], y - xy[1]], -1)
    return torch.tensor(-0.5 * np.einsum("hwi,ij,hwj->hw", d, np.linalg.inv(covariance), d))[None, None]


def round_blob(size: tuple[int, int], xy: tuple[float, float], sigma: float) -> Tensor:
    return log_gaussian(size, xy, sigma**2 * np.eye(2))


def in_cells(xy: Tensor, size: tuple[int, int]) -> list[float]:
    return normalized_to_pixel(xy, size).flatten().tolist()


# Soft-argmax


@given(st.floats(10, 29), st.floats(10, 37), st.floats(0.7, 2.0))
@settings(max_examples=50, deadline=None)
def test_the_centre_of_a_gaussian(x: float, y: float, sigma: float) -> None:
    size = (48, 40)
    found = in_cells(decoding.soft_argmax2d(round_blob(size, (x, y), sigma)), size)
    assert found == pytest.approx([x, y], abs=0.01)
    as_float = in_cells(decoding.soft_argmax2d(round_blob(size, (x, y), sigma).float()), size)
    assert as_float == pytest.approx([x, y], abs=0.01)


@pytest.mark.parametrize("size", [(24, 24), (17, 32), (1, 9), (9, 1), (1, 1)])
def test_a_flat_map_gives_the_centre(size: tuple[int, int]) -> None:
    assert decoding.soft_argmax2d(torch.full((2, 3, *size), 5.0)).abs().max() < 1e-6


def test_a_sure_map_gives_its_cell_and_its_neighbourhood_is_symmetric() -> None:
    logits = torch.full((1, 1, 6, 8), -1e4)
    logits[..., 4, 1] = 1e4  # far outside exp's range
    assert in_cells(decoding.soft_argmax2d(logits), (6, 8)) == pytest.approx([1, 4], abs=1e-5)


def test_the_border_pulls_a_cut_gaussian_inwards() -> None:
    """0.9 cells for sigma 1.5 at the outermost cell; documented, so that nobody is surprised."""
    found = in_cells(decoding.soft_argmax2d(round_blob((24, 24), (0, 12), 1.5)), (24, 24))
    x = np.arange(24)
    g = np.exp(-0.5 * (x / 1.5) ** 2)
    assert found[0] == pytest.approx((x * g).sum() / g.sum(), abs=1e-6)
    assert found[0] == pytest.approx(0.9, abs=0.05)
    assert found[1] == pytest.approx(12, abs=1e-6)


def test_temperature_divides_the_logits() -> None:
    logits = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    dense = (logits / 0.3).flatten(2).exp()
    dense = (dense / dense.sum(-1, keepdim=True)).view_as(logits)
    torch.testing.assert_close(decoding.spatial_softmax2d(logits, 0.3), dense)
    # Sharper: nearer to the peak.
    blob = round_blob((24, 24), (3, 12), 3.0)
    soft, sharp = (in_cells(decoding.soft_argmax2d(blob, t), (24, 24))[0] for t in (1.0, 0.1))
    assert abs(sharp - 3) < abs(soft - 3)


@pytest.mark.parametrize("function", [decoding.soft_argmax2d, decoding.spatial_softmax2d])
def test_gradients(function) -> None:  # type: ignore[no-untyped-def]
    logits = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: function(z, 0.7), logits)


def test_float64_stays_float64() -> None:
    logits = torch.randn(1, 2, 96, 77, dtype=torch.float64)
    p = decoding.spatial_softmax2d(logits)
    xy = decoding.expected_xy2d(p)
    assert {p.dtype, xy.dtype, decoding.covariance2d(p, xy).dtype} == {torch.float64}
    centres = (2 * torch.arange(77).double() + 1) / 77 - 1
    torch.testing.assert_close(xy[..., 0], (p * centres).sum((-2, -1)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_decoded_in_float32(dtype: torch.dtype) -> None:
    size = (192, 192)
    logits = (round_blob(size, (171.3, 20.6), 2.0).clamp(min=-60)).to(dtype)
    exact = in_cells(decoding.soft_argmax2d(logits.double()), size)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        p = decoding.spatial_softmax2d(logits)
        xy = decoding.soft_argmax2d(logits)
        mean = decoding.expected_xy2d(p)
    assert p.dtype == xy.dtype == mean.dtype == torch.float32
    assert in_cells(xy, size) == pytest.approx(exact, abs=1e-3)
    assert decoding.expected_xy2d(p.to(dtype)).dtype == torch.float32


def test_each_map_is_its_own() -> None:
    logits = torch.randn(3, 4, 6, 7)
    together = decoding.soft_argmax2d(logits)
    for b in range(3):
        for k in range(4):
            alone = decoding.soft_argmax2d(logits[b : b + 1, k : k + 1])
            torch.testing.assert_close(together[b, k], alone[0, 0])


@pytest.mark.parametrize("shape", [(0, 3, 5, 6), (2, 1, 5, 6), (2, 3, 1, 6)])
def test_shapes(shape: tuple[int, ...]) -> None:
    p = decoding.spatial_softmax2d(torch.randn(shape))
    xy = decoding.expected_xy2d(p)
    assert p.shape == shape
    assert xy.shape == (*shape[:2], 2)
    assert decoding.covariance2d(p, xy).shape == (*shape[:2], 2, 2)
    assert decoding.mass_within2d(p, xy, 0.1).shape == shape[:2]
    torch.testing.assert_close(p.sum((-2, -1)), torch.ones(shape[:2]))


def test_a_wrong_rank_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, K, h, w\), got \(3, 5, 6\)"):
        decoding.soft_argmax2d(torch.randn(3, 5, 6))


def test_mirror_equivariance() -> None:
    logits = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    xy = decoding.soft_argmax2d(logits)
    torch.testing.assert_close(decoding.soft_argmax2d(logits.flip(-1)), xy * torch.tensor([-1, 1]), atol=1e-14, rtol=0)
    torch.testing.assert_close(decoding.soft_argmax2d(logits.flip(-2)), xy * torch.tensor([1, -1]), atol=1e-14, rtol=0)


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
