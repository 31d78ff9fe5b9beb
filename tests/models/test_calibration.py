"""Calibration on errors whose distribution is known."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from support.student_errors import answers, errors_of

from kpnet import build_model, load_model
from kpnet.core.errors import KpnetError
from kpnet.evaluation.reliability import measure_reliability
from kpnet.heads import Keypoints
from kpnet.models.calibration import Calibration, fit_calibration, fit_presence, student_nll
from kpnet.models.test_time import TestTime
from kpnet.uncertainty import probability_within_ellipse

SIZE = (96, 96)


@pytest.mark.parametrize("dof", [4.0, 50.0])
def test_finds_the_parameters_that_made_the_errors(dof: float) -> None:
    prediction, covariance = answers(5000)
    factors = torch.tensor([0.5, 1.0, 2.0, 0.3], dtype=torch.float64)
    target = errors_of(covariance, factors, 0.8, dof)
    found = fit_calibration(prediction, target, torch.ones(5000, 4, dtype=torch.bool), SIZE)
    assert found.exponent == pytest.approx(0.8, abs=0.03)
    assert 1 / found.dof == pytest.approx(1 / dof, abs=0.03)
    # exp(a) size^(b - 1) at the usual size is what the errors were made with.
    size = covariance.det().pow(0.25).log().mean().item()
    for fitted, factor in zip(found.log_scales, factors.tolist(), strict=True):
        assert fitted + (found.exponent - 1) * size == pytest.approx(math.log(factor) - 0.2 * size, abs=0.06)
    assert found.points == 20_000


def test_errors_with_lighter_tails_than_normal_ones_are_computed_in_single_precision() -> None:
    """ONNX has no log1p: where dof is large, 1 + x / dof would be 1, and every confidence 0."""
    prediction, covariance = answers(300)
    angle = torch.linspace(0, 40, 1200, dtype=torch.float64).view(300, 4)
    circle = torch.stack([angle.cos(), angle.sin()], -1)[..., None]
    target = (torch.linalg.cholesky(covariance) @ circle)[..., 0]
    found = fit_calibration(prediction, target, torch.ones(300, 4, dtype=torch.bool), SIZE)
    squared = torch.tensor([0.1, 1.0, 4.0])
    single = 1 - torch.exp(-found.dof / 2 * torch.log(1 + squared / (found.dof - 2)))
    torch.testing.assert_close(single, 1 - torch.exp(-squared / 2), rtol=0, atol=2e-3)
    exact = probability_within_ellipse(squared.double(), found.dof).float()
    torch.testing.assert_close(single, exact, rtol=0, atol=1e-4)


def test_confidence_and_coverage_are_true_afterwards() -> None:
    prediction, covariance = answers(6000)
    target = errors_of(covariance, torch.tensor([2.0, 3.0, 1.5, 4.0], dtype=torch.float64), 0.7, 5.0)
    visible = torch.rand(6000, 4, generator=torch.Generator().manual_seed(1)) > 0.2
    target[~visible] = torch.nan
    half = 3000
    calibration = fit_calibration(
        dataclasses.replace(prediction, keypoints=prediction.keypoints[:half], covariance=covariance[:half]),
        target[:half],
        visible[:half],
        SIZE,
    )
    rest = dataclasses.replace(prediction, keypoints=prediction.keypoints[half:], covariance=covariance[half:])
    before = measure_reliability(rest, target[half:], visible[half:], SIZE)
    after = measure_reliability(calibration(rest, SIZE), target[half:], visible[half:], SIZE)
    assert before["ece@1%"] > 0.1
    assert after["ece@1%"] < 0.02
    assert after["ece"] < 0.02
    for level, share in after["coverage"].items():
        assert share["measured"] == pytest.approx(int(level[:-1]) / 100, abs=0.015)
        assert share["low"] <= share["measured"] <= share["high"]


def test_a_head_without_a_distribution_gets_one_circle_per_point() -> None:
    g = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.01, 0.03])
    target = torch.randn(4000, 2, 2, generator=g) * spread[:, None]
    prediction = Keypoints(torch.zeros(4000, 2, 2))
    found = fit_calibration(prediction, target, torch.ones(4000, 2, dtype=torch.bool), SIZE)
    calibrated = found(prediction, SIZE)
    assert found.exponent == 1
    assert calibrated.covariance is not None
    assert calibrated.confidence is not None
    deviation = calibrated.covariance.diagonal(dim1=-2, dim2=-1).sqrt()[0]
    torch.testing.assert_close(deviation, spread[:, None].expand(2, 2), rtol=0.05, atol=0)
    assert (calibrated.covariance[..., 0, 1] == 0).all()


@pytest.mark.parametrize("spread", [1e-2, 1e-3, 1e-6])
def test_covariances_that_hardly_differ_are_scaled_as_one(spread: float) -> None:
    """A barely trained head: nothing says what the exponent is, and the error is the same for all."""
    g = torch.Generator().manual_seed(0)
    target = 0.4 * torch.randn(40, 3, 2, generator=g)
    size = 0.1 * torch.exp(spread * torch.randn(40, 3, 1, 1, generator=g))
    prediction = Keypoints(torch.zeros(40, 3, 2), covariance=size**2 * torch.eye(2))
    found = fit_calibration(prediction, target, torch.ones(40, 3, dtype=torch.bool), SIZE)
    calibrated = found(prediction, SIZE)
    assert calibrated.covariance is not None
    deviation = calibrated.covariance.diagonal(dim1=-2, dim2=-1).mean().sqrt()
    assert deviation == pytest.approx(float(target.std()), rel=0.1)
    assert 0 < found.exponent < 3


def test_a_point_with_few_labels_is_as_the_others() -> None:
    prediction, covariance = answers(400)
    target = errors_of(covariance, torch.ones(4, dtype=torch.float64), 1.0, 8.0)
    visible = torch.ones(400, 4, dtype=torch.bool)
    visible[2:, 3] = False
    target[:, 3] *= 5  # two bad labels
    found = fit_calibration(prediction, target, visible, SIZE)
    others = sum(found.log_scales[:3]) / 3
    assert found.log_scales[3] - others < math.log(2)


def test_the_density_is_that_of_a_student_t() -> None:
    """Two dimensions of scipy's formula, by torch's own one-dimensional marginal and a sum over a grid."""
    covariance = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64)
    at = torch.linspace(-60, 60, 3001, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1)
    density = (-student_nll(grid, covariance, torch.tensor(4.0, dtype=torch.float64))).exp() * (at[1] - at[0]) ** 2
    assert density.sum().item() == pytest.approx(1, abs=1e-3)
    scale = math.sqrt(0.5 * (4 - 2) / 4)
    marginal = torch.distributions.StudentT(torch.tensor(4.0, dtype=torch.float64), 0.0, scale)
    expected = marginal.log_prob(at).exp() * (at[1] - at[0])
    torch.testing.assert_close(density.sum(0)[1400:1600], expected[1400:1600], atol=1e-5, rtol=1e-3)


def test_errors_that_no_scale_fits() -> None:
    prediction, _ = answers(100)
    target = prediction.keypoints.clone()
    target[0, 0] = 0.5
    with pytest.raises(KpnetError, match="no scale fits these errors"):
        fit_calibration(prediction, target, torch.ones(100, 4, dtype=torch.bool), SIZE)


@pytest.mark.parametrize(
    ("count", "message"), [(10, "expected at least 50 labelled points, found 40"), (20, "every point is hit exactly")]
)
def test_too_little_to_fit(count: int, message: str) -> None:
    prediction, _ = answers(count)
    with pytest.raises(KpnetError, match=message):
        fit_calibration(prediction, prediction.keypoints.clone(), torch.ones(count, 4, dtype=torch.bool), SIZE)


def test_it_is_saved_with_the_model(tmp_path: Path) -> None:
    model = build_model(backbone="conv_sandwich", head="regression", num_keypoints=2, in_channels=1, input_size=32)
    images = torch.rand(3, 1, 32, 32)
    assert model.infer(images).confidence is None
    model.calibration = Calibration([-1.0, -0.5], 1.0, 4.0, 100)
    model.save(tmp_path)
    again = load_model(tmp_path)
    assert again.calibration == model.calibration
    a, b = model.eval().infer(images), again.infer(images)
    assert a.confidence is not None
    assert b.confidence is not None
    assert torch.equal(a.confidence, b.confidence)
    assert b.dof == 4.0
    # It was fitted to plain predictions, and holds for no others.
    assert again.infer(images, TestTime(scales=(0.9, 1.0))).confidence is None
    text = (tmp_path / "model.yaml").read_text()
    (tmp_path / "model.yaml").write_text(text.replace("[-1.0, -0.5]", "[-1.0]"))
    with pytest.raises(KpnetError, match="calibration: expected 2 log_scales, found 1"):
        load_model(tmp_path)


def test_another_decoding_goes_without_its_calibration(tmp_path: Path) -> None:
    model = build_model(backbone="conv_sandwich", head="heatmap", num_keypoints=2, in_channels=1, input_size=32)
    model.calibration = Calibration([-1.0, -0.5], 1.0, 4.0, 100)
    model.save(tmp_path)
    assert load_model(tmp_path, decoding="dark").calibration is None
    assert load_model(tmp_path).calibration == model.calibration


def test_fifty_points_are_enough() -> None:
    prediction, covariance = answers(51, 1)
    target = errors_of(covariance, torch.ones(1, dtype=torch.float64), 1.0, 50.0)
    visible = torch.ones(51, 1, dtype=torch.bool)
    visible[0] = False
    assert fit_calibration(prediction, target, visible, SIZE).points == 50
    visible[1] = False
    with pytest.raises(KpnetError, match="expected at least 50 labelled points, found 49"):
        fit_calibration(prediction, target, visible, SIZE)


def test_presence_is_calibrated_by_the_scale_and_shift_that_it_was_made_with() -> None:
    g = torch.Generator().manual_seed(0)
    logit = 3 * torch.randn(20_000, 4, generator=g)
    present = (torch.rand(20_000, 4, generator=g) < torch.sigmoid(0.5 * logit - 1)).float()
    present[:, 3] = torch.nan  # not known
    found = fit_presence(torch.sigmoid(logit), present)
    assert found is not None
    assert found == pytest.approx((0.5, -1), abs=0.03)
    prediction, covariance = answers(20_000)
    prediction = dataclasses.replace(prediction, presence=torch.sigmoid(logit))
    target = errors_of(covariance, torch.ones(4, dtype=torch.float64), 1.0, 5.0)
    calibration = fit_calibration(prediction, target, torch.ones(20_000, 4, dtype=torch.bool), SIZE, present=present)
    assert calibration.presence == found
    calibrated = calibration(prediction, SIZE)
    assert calibrated.presence is not None
    assert calibrated.confidence is not None
    torch.testing.assert_close(calibrated.presence, torch.sigmoid(0.5 * logit - 1), atol=0.01, rtol=0)
    near = calibration(dataclasses.replace(prediction, presence=None), SIZE).confidence
    assert near is not None
    torch.testing.assert_close(calibrated.confidence, near * calibrated.presence)


def test_presence_that_a_threshold_separates_has_a_finite_scale() -> None:
    presence = torch.tensor([0.9] * 30 + [0.1] * 30)
    found = fit_presence(presence, torch.tensor([1.0] * 30 + [0.0] * 30))
    assert found is not None
    assert 1 < found[0] < 10
    assert abs(found[1]) < 0.1


@pytest.mark.parametrize("present", [[1.0] * 60, [1.0] * 41 + [0.0] * 19, [torch.nan] * 60, [0.0] * 30 + [1.0] * 30])
def test_presence_that_cannot_be_fitted_stays_as_it_is(present: list[float]) -> None:
    """One kind, too few of one, none known, and a presence that is higher where no point is."""
    presence = torch.tensor([0.9] * 30 + [0.1] * 30)
    assert fit_presence(presence, torch.tensor(present)) is None
    calibration = Calibration([0.0], 1.0, 5.0, 50)
    prediction = Keypoints(
        torch.zeros(60, 1, 2), covariance=torch.eye(2).expand(60, 1, 2, 2), presence=presence[:, None]
    )
    torch.testing.assert_close(calibration(prediction, SIZE).presence, presence[:, None])


def test_the_scale_of_presence_is_saved_with_the_model(tmp_path: Path) -> None:
    model = build_model(backbone="conv_sandwich", head="simcc", num_keypoints=1, input_size=32, presence=True)
    model.calibration = Calibration([0.0], 1.0, 5.0, 50, presence=(2.0, -0.5))
    model.save(tmp_path)
    assert load_model(tmp_path).calibration == model.calibration
