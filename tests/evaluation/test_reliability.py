"""Reliability of predictions whose errors are drawn from their own covariances."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.student_errors import answers, errors_of

from kpnet.evaluation.reliability import (
    cross_fit_presence,
    measure_cross_fitted,
    measure_presence,
    measure_reliability,
)
from kpnet.heads import Keypoints
from kpnet.models.calibration import fit_calibration, fit_presence
from kpnet.plot import draw_reliability, save_figure
from kpnet.uncertainty import probability_within

SIZE = (96, 96)


def measured(factor: float, count: int = 3000, dof: float = 5.0) -> dict[str, Any]:
    """The reliability of predictions whose errors are `factor` times as large as they predict."""
    answer, covariance = answers(count)
    confidence = probability_within(covariance, 0.05, SIZE, dof)
    answer = dataclasses.replace(answer, confidence=confidence, dof=dof)
    target = errors_of(covariance, torch.full((4,), factor, dtype=torch.float64), 1.0, dof)
    return measure_reliability(answer, target, torch.ones(count, 4, dtype=torch.bool), SIZE)


def test_true_answers_are_reliable() -> None:
    told = measured(1.0)
    assert told["ece"] < 0.015
    assert told["ece@1%"] < 0.015
    for level, share in told["coverage"].items():
        assert share["measured"] == pytest.approx(int(level[:-1]) / 100, abs=0.015)
        assert share["low"] <= int(level[:-1]) / 100 <= share["high"]
    for decile in told["deciles"][3:]:  # a dof of 5 needs many draws for its variance
        assert decile["px"] == pytest.approx(decile["predicted_px"], rel=0.25)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_answers_that_are_too_sure_or_too_shy_are_not(factor: float) -> None:
    told = measured(factor)
    assert told["ece@1%"] > 0.05
    share = told["coverage"]["90%"]
    assert not share["low"] <= 0.9 <= share["high"]
    assert (share["measured"] < 0.9) == (factor > 1)


def test_the_interval_is_of_images_and_not_of_points() -> None:
    """Where the points of an image err together, 200 images of 50 points are 200 draws and not 10 000."""
    answer, covariance = answers(200, 50)
    covariance = 1e-4 * torch.eye(2, dtype=torch.float64).expand_as(covariance)
    answer = dataclasses.replace(answer, covariance=covariance)
    together = 0.01 * torch.randn(200, 1, 2, generator=torch.Generator().manual_seed(0)).double().expand(200, 50, 2)
    share = measure_reliability(answer, together, torch.ones(200, 50, dtype=torch.bool), SIZE)["coverage"]["50%"]
    assert share["high"] - share["low"] == pytest.approx(2 * 1.96 * (0.5 * 0.5 / 200) ** 0.5, rel=0.2)


def certain(confidence: list[float], right: list[bool], spread: float = 1e-3) -> tuple[Keypoints, torch.Tensor]:
    """One point in each image, right in place or wrong by half the image, and its target."""
    n = len(confidence)
    covariance = spread**2 * torch.eye(2, dtype=torch.float64).expand(n, 1, 2, 2)
    answer = Keypoints(torch.zeros(n, 1, 2).double(), torch.tensor(confidence).double()[:, None], covariance)
    return answer, torch.where(torch.tensor(right)[:, None, None], 0.0, 1.0).double().expand(n, 1, 2)


def test_the_diagram_and_its_error_on_paper() -> None:
    """Confidences that hold measure an error of 0; each bin shows its own points, those of 0 and 1 as well."""
    confidence = [0.0] * 2 + [0.25] * 8 + [0.75] * 4 + [1.0] * 3
    right = [False] * 2 + [True] * 2 + [False] * 6 + [True] * 3 + [False] + [True] * 3
    answer, target = certain(confidence, right)
    measured = measure_reliability(answer, target, torch.ones(len(right), 1, dtype=torch.bool), SIZE)
    rows = [(row["confidence"], row["right"], row["points"]) for row in measured["diagram"]["5%"]]
    assert rows == [(0, 0, 2), (0.25, 0.25, 8), (0.75, 0.75, 4), (1, 1, 3)]
    assert measured["ece"] == 0
    wrong, target = certain([0.9] * 10 + [0.1] * 30, [True] * 5 + [False] * 5 + [True] * 6 + [False] * 24)
    measured = measure_reliability(wrong, target, torch.ones(40, 1, dtype=torch.bool), SIZE)
    assert measured["ece"] == pytest.approx((10 * 0.4 + 30 * 0.1) / 40)


def test_deciles_go_from_the_most_confident_to_the_least() -> None:
    """Twenty points that err by twice the deviation which they predict, in pixels of an image of 96 x 48."""
    deviation = torch.linspace(0.01, 0.2, 20, dtype=torch.float64)[torch.randperm(20)]
    covariance = (deviation**2)[:, None, None, None] * torch.diag(torch.tensor([1.0, 0.0]).double() + 1e-12)
    answer = Keypoints(torch.zeros(20, 1, 2).double(), covariance=covariance)
    target = torch.stack([2 * deviation, torch.zeros(20).double()], -1)[:, None]
    deciles = measure_reliability(answer, target, torch.ones(20, 1, dtype=torch.bool), (48, 96))["deciles"]
    pairs = deviation.sort().values.view(10, 2).square().mean(-1).sqrt() * 48  # half the width is 1
    assert [row["predicted_px"] for row in deciles] == pytest.approx(pairs.tolist())
    assert [row["px"] for row in deciles] == pytest.approx((2 * pairs).tolist())


def test_absent_points_count_for_nothing_and_the_picture_is_drawn(tmp_path: Path) -> None:
    answer, covariance = answers(50)
    target = errors_of(covariance, torch.ones(4, dtype=torch.float64), 1.0, 50.0)
    visible = torch.ones(50, 4, dtype=torch.bool)
    visible[:, 1] = False
    visible[7] = False
    first = measure_reliability(answer, target, visible, SIZE)
    target[~visible] = torch.nan
    second = measure_reliability(answer, target, visible, SIZE)
    assert first == second
    assert "ece" not in first  # these answers carry no confidence
    save_figure(draw_reliability(first), tmp_path / "reliability.png")
    assert (tmp_path / "reliability.png").stat().st_size > 10_000


def test_auc_of_presence_is_the_share_of_pairs_in_the_right_order() -> None:
    g = torch.Generator().manual_seed(0)
    presence = (torch.rand(40, 3, generator=g) * 10).round() / 10  # with ties
    present = (torch.rand(40, 3, generator=g) < presence).float()
    present[0] = torch.nan
    found = measure_presence(presence, present)
    assert found is not None
    there, absent = presence[present == 1], presence[present == 0]
    pairs = (there[:, None] > absent).float() + 0.5 * (there[:, None] == absent).float()
    assert found["auc"] == pytest.approx(float(pairs.mean()))
    assert (found["there"], found["absent"]) == (len(there), len(absent))
    assert found["ece"] < 0.15
    assert measure_presence(presence, torch.ones(40, 3)) is None


def test_a_point_that_is_not_there_is_wrong_wherever_it_is_predicted() -> None:
    """Of 100 exact points, half are hidden or gone; the confidence says so, and is then without error."""
    target, covariance = torch.zeros(100, 1, 2), 1e-6 * torch.eye(2).expand(100, 1, 2, 2)
    presence = torch.tensor([1.0, 0.0]).repeat(50)[:, None]
    predicted = Keypoints(target, presence.clone(), covariance, presence=presence)
    visible = torch.ones(100, 1, dtype=torch.bool)
    visible[-10:] = False  # five of them gone, of five nothing is known
    present = presence.clone()
    present[-10::2] = torch.nan
    found = measure_reliability(predicted, target, visible, (96, 96), present)
    assert found["ece"] == pytest.approx(0, abs=1e-6)
    assert found["ece@1%"] == pytest.approx(0, abs=1e-3)
    assert sum(row["points"] for row in found["diagram"]["5%"]) == 95
    assert measure_reliability(predicted, target, visible, (96, 96))["ece"] == pytest.approx(0.5)
    assert found["coverage"]["90%"]["measured"] == 1  # ellipses are about labelled points


def test_presence_of_a_half_is_calibrated_by_the_other() -> None:
    """Copies follow the images, and are in the halves of these."""
    generator = torch.Generator().manual_seed(0)
    present = (torch.rand(40, 5, generator=generator) < 0.6).float()
    presence = (0.5 * present + 0.5 * torch.rand(40, 5, generator=generator)).clamp(0.01, 0.99)
    first = np.arange(20) % 3 == 0
    both = torch.from_numpy(np.tile(first, 2))
    found = cross_fit_presence(presence, present, first)
    for here, there in ((both, ~both), (~both, both)):
        fitted = fit_presence(presence[there], present[there])
        assert fitted is not None
        logits = fitted[0] * presence[here].double().logit() + fitted[1]
        torch.testing.assert_close(found[here], logits.sigmoid())
    few = cross_fit_presence(presence[:4], present[:4], np.array([True, False]))
    torch.testing.assert_close(few, presence[:4].double())


def test_each_half_is_judged_by_the_fit_to_the_other() -> None:
    """Errors of one half are three times as large, so the other's ellipses hold 1 - 0.1^(1/9) instead of 90 %."""
    count, first = 4000, np.arange(4000) % 2 == 0
    draw = torch.Generator().manual_seed(0)
    covariance = 1e-4 * torch.eye(2, dtype=torch.float64).expand(count, 2, 2, 2)
    errors = 0.01 * torch.randn(count, 2, 2, generator=draw, dtype=torch.float64)
    errors[~torch.from_numpy(first)] *= 3
    predicted = Keypoints(torch.zeros(count, 2, 2, dtype=torch.float64), covariance=covariance)
    visible = torch.ones(count, 2, dtype=torch.bool)
    found = measure_cross_fitted(predicted, errors, visible, SIZE, first)
    for level, outside in (("50%", 0.5), ("90%", 0.1)):
        expected = (1 - outside**9 + 1 - outside ** (1 / 9)) / 2
        assert found["coverage"][level]["measured"] == pytest.approx(expected, abs=0.01)
    assert found["cross_fitted"]


def test_the_instances_of_an_image_are_drawn_together_whatever_their_order() -> None:
    """Errors of an image's 20 instances are the same, and those of halves of the images are taken apart and joined."""
    answer, covariance = answers(60)
    target = errors_of(covariance, torch.ones(4, dtype=torch.float64), 1.0, 5.0)
    first, images = np.random.default_rng(0).permutation(60) < 30, torch.arange(60).repeat_interleave(20)
    found = []
    for order in (images, images[torch.randperm(1200, generator=torch.Generator().manual_seed(0))]):
        given = rows(answer, order), target[order], torch.ones(1200, 4, dtype=torch.bool), SIZE, first[order.numpy()]
        found.append(measure_cross_fitted(*given, images=order.numpy())["coverage"]["50%"])
        apart = measure_cross_fitted(*given)["coverage"]["50%"]
        assert found[-1]["high"] - found[-1]["low"] > 2 * (apart["high"] - apart["low"])
    assert found[1] == pytest.approx(found[0])


def test_copies_are_in_the_halves_of_their_images() -> None:
    """Points of the copies are not there; the presence that they are given is 0.8 in one half, and 0.2 in the other."""
    count, first = 400, np.arange(400) % 2 == 0
    draw = torch.Generator().manual_seed(0)
    covariance = 1e-4 * torch.eye(2, dtype=torch.float64).expand(2 * count, 1, 2, 2)
    target = 0.01 * torch.randn(2 * count, 1, 2, generator=draw, dtype=torch.float64)
    presence = torch.full((count,), 0.9, dtype=torch.float64)
    presence = torch.cat([presence, 0.2 + 0.6 * torch.from_numpy(first).double()])[:, None]
    presence = presence + 0.05 * torch.rand(2 * count, 1, generator=draw, dtype=torch.float64)
    predicted = Keypoints(torch.zeros_like(target), covariance=covariance, presence=presence)
    present = (torch.arange(2 * count) < count).double()[:, None]
    visible = present > 0
    found = measure_cross_fitted(predicted, target, visible, SIZE, first, present)
    sum_of_confidence = 0.0
    half = torch.from_numpy(first)
    for here, there in ((half, ~half), (~half, half)):
        both, own = torch.cat([there, there]), torch.cat([here, torch.zeros_like(here)])
        known = rows(predicted, both), target[both], visible[both], SIZE
        calibrated = fit_calibration(*known, present=present[both])(rows(predicted, own), SIZE)
        sum_of_confidence += confidence(calibrated, target[own])
    diagram = found["diagram"]["1%"]
    assert sum(row["points"] for row in diagram) == count
    assert sum(row["points"] * row["confidence"] for row in diagram) == pytest.approx(sum_of_confidence)


def rows(predicted: Keypoints, chosen: torch.Tensor) -> Keypoints:
    return predicted.map(lambda each: each[chosen])


def confidence(predicted: Keypoints, target: torch.Tensor) -> float:
    """The sum of the confidence that points are within 1 % of the longer side."""
    ones = torch.ones(target.shape[:2])
    diagram = measure_reliability(predicted, target, ones > 0, SIZE, ones)["diagram"]["1%"]
    return float(sum(row["points"] * row["confidence"] for row in diagram))
