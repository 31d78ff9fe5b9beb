"""Ellipses, probabilities and mixtures against sampling and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.student_errors import sample

from kpnet import uncertainty

DOFS = [2.5, 4.0, 30.0, math.inf]


COVARIANCE = torch.tensor([[0.004, 0.0015], [0.0015, 0.001]], dtype=torch.float64)


@pytest.mark.parametrize("dof", DOFS)
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9, 0.99])
def test_ellipses_hold_what_they_say(probability: float, dof: float) -> None:
    errors = sample(COVARIANCE, dof)
    radius = uncertainty.ellipse_radius(probability, dof)
    squared = torch.einsum("ni,ij,nj->n", errors, COVARIANCE.inverse(), errors)
    torch.testing.assert_close(uncertainty.mahalanobis(errors, COVARIANCE), squared)
    assert (squared <= radius**2).double().mean().item() == pytest.approx(probability, abs=0.005)
    back = uncertainty.probability_within_ellipse(torch.tensor(radius**2, dtype=torch.float64), dof)
    assert back.item() == pytest.approx(probability, rel=1e-9)


def test_normal_ellipses_are_the_known_ones() -> None:
    assert uncertainty.ellipse_radius(0.9) == pytest.approx(math.sqrt(4.605170186))  # chi-squared, 2 degrees
    assert uncertainty.ellipse_radius(0.95, 1e7) == pytest.approx(uncertainty.ellipse_radius(0.95), rel=1e-5)


@pytest.mark.parametrize("dof", DOFS)
@pytest.mark.parametrize("size", [(96, 96), (64, 128), (128, 64)])
def test_probability_within_a_radius(size: tuple[int, int], dof: float) -> None:
    errors = sample(COVARIANCE, dof) * torch.tensor([size[1] / 2, size[0] / 2])
    for radius in (0.005, 0.02, 0.05):
        share = (errors.norm(dim=-1) <= radius * max(size)).double().mean().item()
        assert uncertainty.probability_within(COVARIANCE, radius, size, dof).item() == pytest.approx(share, abs=0.005)


def test_probability_within_a_circle_is_in_closed_form() -> None:
    sigma = 0.03  # of the side
    covariance = (2 * sigma) ** 2 * torch.eye(2, dtype=torch.float64)
    expected = 1 - math.exp(-(0.05**2) / (2 * sigma**2))
    assert uncertainty.probability_within(covariance, 0.05, (96, 96)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dof", [2.5, 4.0, 30.0, math.inf])
@pytest.mark.parametrize("size", [(96, 96), (64, 128)])
def test_expected_distance_is_the_mean_length_of_errors(size: tuple[int, int], dof: float) -> None:
    errors = sample(COVARIANCE, dof) * torch.tensor([size[1] / 2, size[0] / 2])
    expected = uncertainty.expected_distance(COVARIANCE, size, dof) * max(size)
    assert expected.item() == pytest.approx(errors.norm(dim=-1).mean().item(), rel=0.02 if dof < 4 else 0.006)


def test_expected_distance_of_a_circle_is_in_closed_form() -> None:
    """Rayleigh's mean; and for 3 degrees of freedom, Σ = C / 3, the integral of P(|e| > r) = (1 + r²/(3 Σ))^(-3/2)."""
    covariance = (2 * 0.03) ** 2 * torch.eye(2, dtype=torch.float64)
    normal, student = (uncertainty.expected_distance(covariance, (96, 96), dof).item() for dof in (math.inf, 3.0))
    assert normal == pytest.approx(0.03 * math.sqrt(math.pi / 2), rel=1e-12)
    assert student == pytest.approx(0.03, rel=1e-12)  # the integral of (1 + (r/a)²)^(-3/2) is a, here the deviation


@given(st.floats(1e-6, 1), st.floats(1e-6, 1), st.floats(-0.999, 0.999), st.sampled_from(DOFS))
def test_wider_is_less_sure(xx: float, yy: float, correlation: float, dof: float) -> None:
    xy = correlation * math.sqrt(xx * yy)
    covariance = torch.tensor([[xx, xy], [xy, yy]], dtype=torch.float64)
    near, far = (uncertainty.probability_within(s * covariance, 0.05, (96, 96), dof).item() for s in (1, 4))
    assert 0 <= far <= near <= 1


def test_no_spread_is_certain_and_differentiable() -> None:
    zero = torch.zeros(1, 2, 2, requires_grad=True)
    value = uncertainty.probability_within(zero, 0.05, (96, 96))
    assert value.item() == 1
    assert uncertainty.probability_within(torch.zeros(0, 3, 2, 2), 0.05, (96, 96)).shape == (0, 3)


def test_a_mixture_has_the_moments_of_its_samples() -> None:
    g = torch.Generator().manual_seed(0)
    points = torch.randn(3, 2, generator=g, dtype=torch.float64)
    roots = torch.randn(3, 2, 2, generator=g, dtype=torch.float64)
    covariances = roots @ roots.mT
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    drawn = torch.cat(
        [
            p + torch.randn(int(1e6 * w), 2, generator=g, dtype=torch.float64) @ r.T
            for p, r, w in zip(points, roots, weights.tolist(), strict=True)
        ]
    )
    mean, covariance = uncertainty.mixture(points, covariances, weights)
    torch.testing.assert_close(mean, drawn.mean(0), atol=0.01, rtol=0)
    torch.testing.assert_close(covariance, drawn.T.cov(), atol=0.03, rtol=0)


def test_equal_weights_are_the_default() -> None:
    points, covariances = torch.rand(4, 5, 2), torch.eye(2).expand(4, 5, 2, 2)
    mean, covariance = uncertainty.mixture(points, covariances)
    torch.testing.assert_close(mean, points.mean(0))
    again = uncertainty.mixture(points, covariances, torch.full((4, 5), 0.25))
    torch.testing.assert_close(covariance, again[1])
