"""Intervals of measures over resampled images, beside resampling by `evaluate_points` itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kpnet import Skeleton
from kpnet.evaluation import intervals
from kpnet.evaluation.intervals import bootstrap_intervals
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


def test_images_that_are_all_alike_leave_no_doubt() -> None:
    predicted, target, visible = (each[:1].expand(12, *each.shape[1:]) for each in points(1))
    visible = torch.ones_like(visible)
    measures = evaluate_points(predicted, target, visible, SKELETON, SIZE)
    for name, ends in bootstrap_intervals(predicted, target, visible, SKELETON, SIZE).items():
        assert ends == pytest.approx([measures[name]] * 2), name


def test_a_few_images_have_no_interval() -> None:
    assert bootstrap_intervals(*points(9), SKELETON, SIZE) == {}
