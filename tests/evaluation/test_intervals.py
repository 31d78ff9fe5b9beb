"""Intervals of measures over resampled images, beside resampling by `evaluate_points` itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from kpnet import Skeleton
from kpnet.evaluation import intervals
from kpnet.evaluation.intervals import bootstrap_intervals, share_interval
from kpnet.metrics import evaluate_points

SIZE = (48, 64)
SKELETON = Skeleton.from_names(["a", "b", "c"])


def points(images: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    target = torch.rand(images, 3, 2) * 1.6 - 0.8
    predicted = target + 0.1 * torch.randn(images, 1, 1).abs() * torch.randn(images, 3, 2)
    return predicted, target, torch.rand(images, 3) > 0.2


def test_the_ends_are_those_of_measuring_resampled_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same images are drawn, and each draw is measured as a whole."""
    monkeypatch.setattr(intervals, "RESAMPLES", 200)
    predicted, target, visible = points(30)
    found = bootstrap_intervals(predicted, target, visible, SKELETON, SIZE)
    draws, rows = torch.Generator().manual_seed(0), []
    for _ in range(200):
        index = torch.randint(30, (30,), generator=draws)
        rows.append(evaluate_points(predicted[index], target[index], visible[index], SKELETON, SIZE))
    assert set(found) == {"score", "rmse_px", "mre_px", "pck@5%", "pck@10%", "nme", "failure_rate"}
    for name, ends in found.items():
        assert ends == pytest.approx(np.quantile([row[name] for row in rows], [0.025, 0.975]), rel=1e-5), name


def test_errors_that_are_all_alike_leave_no_doubt() -> None:
    predicted, target, visible = (each[:1].expand(12, *each.shape[1:]) for each in points(1))
    visible = torch.ones_like(visible)
    measures = evaluate_points(predicted, target, visible, SKELETON, SIZE)
    found = bootstrap_intervals(predicted, target, visible, SKELETON, SIZE)
    for name in ("score", "rmse_px", "mre_px", "nme"):
        assert found[name] == pytest.approx([measures[name]] * 2), name


def test_a_share_of_all_or_none_has_the_exact_interval_of_as_many_draws_as_images() -> None:
    """Scipy's Clopper-Pearson interval; the third image has no point, and is no draw."""
    _, target, visible = points(20)
    visible[3:], visible[2] = True, False
    right = bootstrap_intervals(target, target, visible, SKELETON, SIZE)
    wrong = bootstrap_intervals(target + 1, target, visible, SKELETON, SIZE)
    some, none = (binomtest(k, 19).proportion_ci(0.95) for k in (19, 0))
    assert right["pck@5%"] == right["pck@10%"] == pytest.approx([some.low, some.high])
    assert wrong["pck@5%"] == wrong["pck@10%"] == pytest.approx([none.low, none.high])
    assert (right["failure_rate"], wrong["failure_rate"]) == (wrong["pck@5%"], right["pck@5%"])
    shared = share_interval(visible, visible)
    assert [shared["low"], shared["high"]] == right["pck@5%"]


def test_the_samples_of_an_image_are_drawn_together() -> None:
    """Three instances with the same errors in each image tell as much as one."""
    one = points(12)
    predicted, target, visible = (each.repeat_interleave(3, 0) for each in one)
    three = predicted, target, visible
    images = np.repeat(np.arange(12), 3)
    found = bootstrap_intervals(*three, SKELETON, SIZE, images=images)
    for name, ends in bootstrap_intervals(*one, SKELETON, SIZE).items():
        assert found[name] == pytest.approx(ends), name
    assert bootstrap_intervals(*three, SKELETON, SIZE, images=images // 2) == {}
    together, alone = share_interval(three[2], three[2] | True, images), share_interval(one[2], one[2] | True)
    assert together == {**alone, "points": 108}


def test_a_few_images_have_no_interval() -> None:
    assert bootstrap_intervals(*points(9), SKELETON, SIZE) == {}
