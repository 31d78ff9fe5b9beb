"""PCK, CED and the areas beneath them, at their thresholds and against counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.four_points import PAIR, SIZE, example

from kpnet import metrics
from kpnet.core.skeleton import Skeleton
from kpnet.metrics import evaluate_points


def test_pck_ced_and_failures_at_their_thresholds() -> None:
    """At most the threshold passes, above it fails: 300-W and WFLW alike."""
    errors = torch.tensor([[0.0, 1.0, math.nan], [2.0, 2.0, math.inf]])
    assert metrics.pck(errors, 1.0).item() == pytest.approx(2 / 5)
    assert metrics.pck(errors, torch.tensor([-1, 0, 1.5, 2, 1e9])).tolist() == pytest.approx([0, 0.2, 0.4, 0.8, 0.8])
    nme = torch.tensor([0.05, 0.10, 0.11, math.inf, math.nan], dtype=torch.float64)
    assert metrics.pck(nme, 0.10) == 0.5
    assert metrics.failure_rate(nme) == 0.5
    assert metrics.failure_rate(nme, 0.08) == 0.75
    assert metrics.pck(errors.long().float()[:0], 1.0).isnan()


def test_auc_of_one_value_is_a_rectangle() -> None:
    """Its curve is 0 before the value and 1 from there on."""
    for value, expected in ((0.0, 1.0), (0.25, 0.75), (1.0, 0.0), (7.0, 0.0), (math.inf, 0.0)):
        assert metrics.auc(torch.tensor([value, math.nan]), 1.0).item() == expected
    with pytest.raises(ValueError, match="above 0, got 0"):
        metrics.auc(torch.zeros(1), 0)


@pytest.mark.parametrize("failure", [0.1, 0.3])
def test_areas_and_curves_against_counting(failure: float) -> None:
    predicted, target, visible = example(40)
    found = evaluate_points(predicted, target, visible, PAIR, SIZE, failure_threshold=failure)
    scale = np.array(SIZE[::-1]) / 2
    errors = np.linalg.norm((predicted - target).double().numpy() * scale, axis=-1)
    shown = visible.numpy()
    eyes = np.linalg.norm((target[:, 0] - target[:, 1]).double().numpy() * scale, axis=-1)
    nme = [errors[n][shown[n]].mean() / eyes[n] for n in range(40) if shown[n, 0] and shown[n, 1]]
    for name, values, limit in (("pck", errors[shown] / 128, 0.1), ("ced", np.array(nme), failure)):
        curve = found[f"{name}_curve"]
        assert curve["threshold"] == pytest.approx(np.linspace(limit / 20, limit, 20))
        assert curve["share"] == pytest.approx([(values <= t).mean() for t in curve["threshold"]])
        # As the published scripts have it: the curve sampled at fine steps.
        steps = np.linspace(0, limit, 10_001)
        shares = np.array([(values <= t).mean() for t in steps])
        sampled = ((shares[1:] + shares[:-1]) / 2 * np.diff(steps)).sum() / limit
        assert found[f"{name}_auc"] == pytest.approx(sampled, abs=1e-3)
        assert 0 < found[f"{name}_auc"] < 1
    assert found["failure_threshold"] == failure
    assert found["failure_rate"] == pytest.approx(1 - found["ced_curve"]["share"][-1])
    assert found["pck_curve"]["share"][9] == found["pck@5%"]
    assert found["pck_curve"]["share"][19] == found["pck@10%"]


def test_pck_of_any_length() -> None:
    """PCKh and its kin: errors over a length of their image."""
    target = torch.zeros(2, 2, 2)
    target[0, 1, 0], target[1, 1, 0] = 10, 40
    visible = torch.ones(2, 2, dtype=torch.bool)
    errors = metrics.point_errors(target + torch.tensor([0, 4.0]), target, visible)
    lengths, _ = metrics.normalizers(target, visible, Skeleton(("a", "b")), SIZE, ("a", "b"))
    assert metrics.pck(errors / lengths[:, None], torch.tensor([0.05, 0.1, 0.39, 0.4])).tolist() == [0, 0.5, 0.5, 1]


@given(st.lists(st.floats(0, 3) | st.just(math.inf) | st.just(math.nan), max_size=12), st.floats(1e-3, 2))
def test_curves_rise_and_areas_are_shares(values: list[float], limit: float) -> None:
    errors = torch.tensor(values, dtype=torch.float64)
    known = errors[~errors.isnan()]
    curve = metrics.pck(errors, torch.linspace(0, limit, 30, dtype=torch.float64))
    area = metrics.auc(errors, limit)
    if not len(known):
        assert curve.isnan().all()
        assert area.isnan()
        return
    assert (curve.diff() >= 0).all()
    assert 0 <= area <= curve[-1] + 1e-12
    assert metrics.failure_rate(errors, limit) == pytest.approx(1 - metrics.pck(errors, limit).item(), abs=1e-12)
    assert metrics.auc(known * 0.5, limit) >= area
    if known.isfinite().all():
        assert metrics.auc(known * 0, limit) == 1
