"""What a point's weight does: the loss is the sum of weight times error over the number of points of weight > 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.every_head import EVERY, label
from support.small_heads import build, features
from torch.nn.functional import one_hot

from kpnet import losses


def is_one_of_points(spec: Any) -> bool:
    """Whether each point has an error of its own: the box of an instance depends on all points (test_centers.py)."""
    return "hardest" not in spec and spec["name"] != "centers"


@pytest.mark.parametrize("spec", [s for s in EVERY if is_one_of_points(s)], ids=label)
def test_every_term_is_linear_in_the_weights(spec: Any) -> None:
    head = build(spec, keypoints=3).double().eval()
    target = torch.rand(2, 3, 2, dtype=torch.float64) - 0.5
    weight = torch.tensor([[0.3, 1.0, 0.0], [2.0, 0.05, 0.7]], dtype=torch.float64)
    output = head([m.double() for m in features()])
    terms = head.loss(output, target, weight)
    alone = one_hot(torch.arange(6), 6).double().view(6, 2, 3)  # one point at weight 1, the others absent
    errors = [head.loss(output, target, one) for one in alone]
    for name, value in terms.items():
        each = np.array([error[name].item() for error in errors])
        assert value.item() == pytest.approx(float((weight.flatten().numpy() * each).sum() / 5), rel=1e-9), name


def test_l1_against_numpy() -> None:
    rng = np.random.default_rng(0)
    predicted, target = rng.normal(size=(2, 4, 5, 2))
    weight = np.where(rng.random((4, 5)) < 0.3, 0, rng.random((4, 5)))
    target[weight == 0] = np.nan
    total, count = 0.0, 0
    for b, k in np.ndindex(4, 5):
        if weight[b, k] > 0:
            total += weight[b, k] * np.abs(predicted[b, k] - target[b, k]).sum() / 2
            count += 1
    found = losses.l1(torch.from_numpy(predicted), torch.from_numpy(target), torch.from_numpy(weight))
    assert found.item() == pytest.approx(total / count)
