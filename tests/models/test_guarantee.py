"""Guarantee radii on errors whose distribution is known, and the law of their coverage."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from kpnet import KeypointModel, build_model, load_model
from kpnet.core.errors import KpnetError
from kpnet.heads import Keypoints
from kpnet.models.files import weights_digest
from kpnet.models.guarantee import (
    Guarantee,
    conformal_quantile,
    conformal_rank,
    coverage_range,
    fit_guarantee,
    least_images,
)
from kpnet.models.test_time import TestTime

SIZE = (48, 96)
UNIT = torch.tensor([1.0, 2.0], dtype=torch.float64) * 2  # a length of the longer side, normalised: 2 in x, 4 in y


def drawn(count: int, points: int, seed: int = 0) -> tuple[Keypoints, Tensor, Tensor]:
    """Predictions of many spreads, the truth, and the distances in units of the longer side."""
    g = torch.Generator().manual_seed(seed)
    spread = 0.01 * torch.rand(count, points, generator=g, dtype=torch.float64).mul(3).exp()
    covariance = torch.diag_embed((spread[..., None] * UNIT).square() / 2)
    keypoints = torch.rand(count, points, 2, generator=g, dtype=torch.float64) - 0.5
    errors = spread[..., None] * torch.randn(count, points, 2, generator=g, dtype=torch.float64)
    return Keypoints(keypoints, covariance=covariance), keypoints + errors * UNIT, errors.norm(dim=-1)


def rows(predicted: Keypoints, part: slice) -> Keypoints:
    covariance = None if predicted.covariance is None else predicted.covariance[part]
    return Keypoints(predicted.keypoints[part], covariance=covariance)


def radii(guarantee: Guarantee, predicted: Keypoints) -> tuple[Tensor, Tensor]:
    found = guarantee(predicted, SIZE)
    assert found.radius is not None
    assert found.joint_radius is not None
    return found.radius, found.joint_radius


@pytest.mark.parametrize(("at", "count"), [(0.9, 9), (0.95, 19), (0.99, 99), (0.5, 1), (0.7, 3), (0.29, 1)])
def test_the_least_number_of_images_is_the_first_whose_rank_there_is(at: float, count: int) -> None:
    assert least_images(at) == count
    assert conformal_rank(count, at) <= count
    assert count == 1 or conformal_rank(count - 1, at) > count - 1
    assert math.isinf(conformal_quantile(torch.rand(count - 1), at))


def test_the_rank_is_that_of_the_decimal_number() -> None:
    assert conformal_rank(99, 0.29) == 29  # 100 * 0.29 is 28.999999999999996, and 100 * 0.07 above 7
    assert conformal_rank(99, 0.07) == 7


def test_the_range_of_the_share_of_new_images() -> None:
    low, high = coverage_range(200, 0.9)
    assert (round(low, 2), round(high, 2)) == (0.86, 0.94)
    assert (low, high) == pytest.approx(stats.beta(181, 20).ppf([0.025, 0.975]), abs=1e-9)


@pytest.mark.parametrize("joint", [False, True])
def test_the_share_of_new_images_follows_the_beta_binomial_law(joint: bool) -> None:
    """Held-out images are drawn many times: the points of one fit, or whole images of four points each."""
    n, m, times = 50, 40, 300 if joint else 900
    counts = []
    for seed in range(times if joint else 1):
        predicted, target, distance = drawn(n + m, 4 if joint else times, seed)
        fitted = fit_guarantee(
            rows(predicted, slice(n)), target[:n], torch.ones(n, distance.shape[1], dtype=torch.bool), SIZE, 0.9
        )
        radius, together = radii(fitted, rows(predicted, slice(n, None)))
        inside = (distance[n:] <= together).all(-1, keepdim=True) if joint else distance[n:] <= radius
        counts.append(inside.sum(0).numpy())
    rank = math.ceil(0.9 * (n + 1))
    law = stats.betabinom(m, rank, n + 1 - rank)
    covered = np.concatenate(counts)
    assert covered.mean() == pytest.approx(law.mean(), abs=4 * law.std() / times**0.5)
    assert covered.std() == pytest.approx(law.std(), rel=0.12)
    expected = law.cdf(np.arange(m + 1))
    assert np.abs(expected - [(covered <= value).mean() for value in range(m + 1)]).max() < 1.63 / times**0.5  # 1 %


@given(st.integers(10, 40), st.floats(0.05, 0.85), st.floats(0.05, 0.85), st.floats(0.1, 100))
@settings(max_examples=15)
def test_laws_of_radii(count: int, at: float, other: float, factor: float) -> None:
    predicted, target, distance = drawn(count, 3, count)
    visible = torch.ones(count, 3, dtype=torch.bool)
    low, high = (radii(fit_guarantee(predicted, target, visible, SIZE, p), predicted) for p in sorted((at, other)))
    assert (low[0] <= high[0]).all()  # a radius grows with the probability
    assert (low[1] <= high[1]).all()
    assert (low[0] <= low[1] + 1e-12).all()  # and that of all points is at least that of one
    rank = math.ceil(round((count + 1) * min(at, other), 9))
    assert ((distance <= low[0] + 1e-12).sum(0) == rank).all()  # of its own images it holds as many as it says
    # What the spread is a multiple of does not matter.
    assert predicted.covariance is not None
    scaled = dataclasses.replace(predicted, covariance=predicted.covariance * factor**2)
    torch.testing.assert_close(
        radii(fit_guarantee(scaled, target, visible, SIZE, at), scaled)[0],
        radii(fit_guarantee(predicted, target, visible, SIZE, at), predicted)[0],
        rtol=2e-2,  # a hundredth of a pixel is added to the spread
        atol=0,
    )


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=50), st.floats(0.01, 0.99))
def test_the_rank_of_scores_survives_a_monotone_transformation(scores: list[float], at: float) -> None:
    values = torch.tensor(scores, dtype=torch.float64)
    quantile = conformal_quantile(values, at)
    assert conformal_quantile(3 * values + 1, at) == pytest.approx(3 * quantile + 1)


def test_radii_by_size_hold_in_each_third() -> None:
    """Errors grow with the size, which the model's spread does not know."""
    g = torch.Generator().manual_seed(0)
    extent = 0.2 + torch.rand(6000, 1, 1, generator=g)
    keypoints = extent * torch.tensor([[[-0.5, 0.0], [0.5, 0.0], [0.1, 0.2]]])
    target = keypoints + 0.02 * extent**2 * torch.randn(6000, 3, 2, generator=g)
    predicted = Keypoints(keypoints)
    visible, half = torch.ones(3000, 3, dtype=torch.bool), slice(3000)
    third = np.digitize(extent[3000:, 0, 0], np.quantile(extent, [1 / 3, 2 / 3]))
    distance = ((target - keypoints) / UNIT)[3000:].norm(dim=-1)
    shares = {}
    for by in (None, "size"):
        fitted = fit_guarantee(rows(predicted, half), target[half], visible, SIZE, 0.8, by)
        radius, together = radii(fitted, rows(predicted, slice(3000, None)))
        shares[by] = [float((distance <= radius)[third == g].double().mean()) for g in range(3)]
        joint = [float((distance <= together).all(-1)[third == g].double().mean()) for g in range(3)]
    assert not fitted.scaled
    assert sum(fitted.points[0]) == 3000 - 2  # the two at the limits are in no third
    assert shares[None][0] > 0.95 > 0.7 > shares[None][2]
    assert shares["size"] == pytest.approx([0.8] * 3, abs=0.03)
    assert joint == pytest.approx([0.8] * 3, abs=0.04)


def test_radii_by_confidence_are_of_each_points_own_thirds() -> None:
    predicted, target, distance = drawn(4000, 2)
    assert predicted.covariance is not None
    size = predicted.covariance[..., 0, 0].sqrt()
    # Where the model is least confident, its errors are half of what it says.
    unsure = size > size.quantile(2 / 3, dim=0)
    target = torch.where(unsure[..., None], (target + predicted.keypoints) / 2, target)
    distance = torch.where(unsure, distance / 2, distance)
    visible = torch.ones(2000, 2, dtype=torch.bool)
    fitted = fit_guarantee(rows(predicted, slice(2000)), target[:2000], visible, SIZE, 0.9, "confidence")
    radius, _ = radii(fitted, rows(predicted, slice(2000, None)))
    inside = distance[2000:] <= radius
    assert float(inside[unsure[2000:]].double().mean()) == pytest.approx(0.9, abs=0.03)
    assert float(inside[~unsure[2000:]].double().mean()) == pytest.approx(0.9, abs=0.03)
    for sure, _, least in fitted.quantiles[:2]:
        assert least == pytest.approx(sure / 2, rel=0.15)


def test_without_a_spread_radii_are_the_same_in_all_images() -> None:
    predicted, target, distance = drawn(40, 3)
    plain = Keypoints(predicted.keypoints)
    fitted = fit_guarantee(plain, target, torch.ones(40, 3, dtype=torch.bool), SIZE, 0.9)
    assert not fitted.scaled
    radius, together = radii(fitted, plain)
    torch.testing.assert_close(radius, distance.sort(dim=0).values[36].expand(40, 3))
    torch.testing.assert_close(together, distance.amax(-1).sort().values[36].expand(40, 3))
    with pytest.raises(KpnetError, match="predicts no spread"):
        fit_guarantee(plain, target, torch.ones(40, 3, dtype=torch.bool), SIZE, 0.5, "confidence")


def test_missing_points_do_not_count() -> None:
    predicted, target, _ = drawn(60, 3)
    visible = torch.ones(60, 3, dtype=torch.bool)
    visible[30:, 1] = visible[:10] = False
    target[~visible] = torch.nan
    fitted = fit_guarantee(predicted, target, visible, SIZE, 0.9)
    assert [row[0] for row in fitted.points] == [50, 20, 50, 50]
    kept = fit_guarantee(rows(predicted, slice(10, 30)), target[10:30], visible[10:30], SIZE, 0.9)
    assert fitted.quantiles[1] == kept.quantiles[1]


def test_too_few_images_are_refused_with_their_number() -> None:
    predicted, target, _ = drawn(30, 2)
    visible = torch.ones(30, 2, dtype=torch.bool)
    visible[8:, 1] = False
    with pytest.raises(KpnetError, match='"nose" is labelled in 8 images, and 90 % needs at least 9'):
        fit_guarantee(predicted, target, visible, SIZE, 0.9, names=["eye", "nose"])
    with pytest.raises(KpnetError, match='"0" is labelled in 15 images, and 95 % needs at least 19'):
        fit_guarantee(predicted, target, visible, SIZE, 0.95, images=[i // 2 for i in range(30)])
    with pytest.raises(KpnetError, match="\"0\" is labelled in 10 images of the third 'small' by size"):
        fit_guarantee(predicted, target, torch.ones(30, 2, dtype=torch.bool), SIZE, 0.95, "size")
    for at in (0, 1, 90, math.nan):
        with pytest.raises(KpnetError, match="between 0 and 1"):
            fit_guarantee(predicted, target, visible, SIZE, at)
    with pytest.raises(KpnetError, match='by: expected size or confidence, found "colour"'):
        fit_guarantee(predicted, target, visible, SIZE, 0.5, "colour")  # type: ignore[arg-type]


# In a model


@pytest.fixture
def model() -> KeypointModel:
    """A model with a guarantee."""
    made = build_model(backbone="conv_sandwich", head="heatmap", num_keypoints=3, in_channels=1, input_size=32).eval()
    quantiles = [[2.0], [3.0], [1.0], [4.0]]
    head = made.config.model_dump(mode="json")["head"]
    made.guarantee = Guarantee(
        0.9, quantiles, [[20]] * 4, [[20]] * 4, [[]] * 4, head=head, weights=weights_digest(made)
    )
    return made


def test_infer_gives_the_radii_of_the_raw_spread(model: KeypointModel, tmp_path: Path) -> None:
    images = torch.rand(2, 1, 32, 32)
    found = model.infer(images)
    assert found.covariance is not None
    spread = (found.covariance.diagonal(dim1=-2, dim2=-1).sum(-1) / 4 + 2 * (0.01 / 32) ** 2).sqrt()
    torch.testing.assert_close(found.radius, torch.tensor([2.0, 3.0, 1.0]) * spread)
    torch.testing.assert_close(found.joint_radius, 4 * spread)
    model.save(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.guarantee == model.guarantee
    torch.testing.assert_close(loaded.infer(images).radius, found.radius)


def test_a_calibration_does_not_change_the_radii(model: KeypointModel) -> None:
    from kpnet.models.calibration import Calibration

    images = torch.rand(2, 1, 32, 32)
    before = model.infer(images)
    model.calibration = Calibration([1.0, 0.5, 2.0], 0.7, 5.0, 60)
    after = model.infer(images)
    assert not torch.equal(after.covariance, before.covariance)  # type: ignore[arg-type]
    assert torch.equal(after.radius, before.radius)  # type: ignore[arg-type]


def test_other_views_have_no_radii(model: KeypointModel) -> None:
    assert model.infer(torch.rand(1, 1, 32, 32), TestTime(scales=(0.9, 1.0))).radius is None


@pytest.mark.parametrize("what", ["decoding", "head", "weights"])
def test_of_another_decoding_or_other_weights_it_is_left_out_and_said(
    model: KeypointModel, tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    model.save(tmp_path)
    text = (tmp_path / "model.yaml").read_text()
    if what == "head":
        (tmp_path / "model.yaml").write_text(text.replace("head: heatmap", "head: {name: heatmap, decoding: dark}", 1))
    if what == "weights":
        held = model.guarantee
        torch.nn.init.zeros_(next(model.head.parameters()))
        model.guarantee = held
        model.save(tmp_path)
    with caplog.at_level(logging.WARNING, logger="kpnet"):
        loaded = load_model(tmp_path, decoding="dark" if what == "decoding" else None)
    assert loaded.guarantee is None
    expected = {
        "decoding": "left out with decoding dark",
        "head": "another head or decoding",
        "weights": "other weights",
    }
    assert expected[what] in caplog.text
    assert caplog.text.count("\n") == 1


def test_a_damaged_guarantee_is_named(model: KeypointModel, tmp_path: Path) -> None:
    assert model.guarantee is not None
    model.guarantee = dataclasses.replace(model.guarantee, quantiles=[[1.0]] * 3)
    model.save(tmp_path)
    with pytest.raises(KpnetError, match=r"model.yaml: guarantee: quantiles: expected 4 rows of 1"):
        load_model(tmp_path)
