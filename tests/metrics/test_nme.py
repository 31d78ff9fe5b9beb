"""What the NME divides by."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from support.four_points import PAIR, PLAIN, SIZE, example
from torch import Tensor

from kpnet import metrics
from kpnet.core.errors import KpnetError
from kpnet.metrics import evaluate_points


def test_normalizers_against_loops() -> None:
    _, target, visible = example()
    target = target * 50
    boxes = torch.arange(28.0).reshape(7, 4) * torch.tensor([1, 1, 3, 2])
    for by in ("diagonal", "box", "given", ("nose", "chin")):
        given_boxes = boxes if by == "given" else None
        found, _ = metrics.normalizers(target, visible, PAIR, SIZE, "box" if by == "given" else by, given_boxes)
        for n in range(7):
            points = target[n][visible[n]].numpy()
            expected = math.nan
            if by == "diagonal":
                expected = math.hypot(*SIZE)
            elif by == "given":
                expected = math.sqrt((boxes[n, 2] - boxes[n, 0]) * (boxes[n, 3] - boxes[n, 1]))
            elif by == "box" and len(points) > 1:
                expected = math.sqrt(np.prod(points.max(0) - points.min(0)))
            elif by != "box" and visible[n, 2] and visible[n, 3]:
                expected = math.dist(target[n, 2], target[n, 3])
            assert found[n].item() == pytest.approx(expected, rel=1e-5, nan_ok=True)


def test_nme_by_each_length() -> None:
    """Corners of a box of 40 x 90 px, each 6 px off: 6 over 60, over the pair's 40, over the diagonal of 160 px."""
    points = torch.tensor([[0.0, 0.0], [40.0, 0.0], [0.0, 90.0], [40.0, 90.0]])[None]
    target = (2 * points + 1) / torch.tensor(SIZE[::-1]) - 1
    off = target + torch.tensor([0, 6 / 48])
    visible = torch.ones(1, 4, dtype=torch.bool)
    cases: list[tuple[Any, Any, float, str]] = [
        (None, None, 6 / 40, "distance from left_eye to right_eye"),
        (("left_eye", "nose"), None, 6 / 90, "distance from left_eye to nose"),
        (["left_eye", "nose"], None, 6 / 90, "distance from left_eye to nose"),
        ("box", None, 6 / 60, "box of the points"),
        ("box", torch.tensor([[10, 10, 13, 22]]), 1.0, "given box"),
        ("box", torch.tensor([[13, 22, 10, 10]]), math.nan, "given box"),
        ("diagonal", None, 6 / 160, "diagonal of the image"),
    ]
    for by, boxes, expected, text in cases:
        found = evaluate_points(off, target, visible, PAIR, SIZE, nme=by, boxes=boxes)
        assert found["nme"] == pytest.approx(expected, rel=1e-5, nan_ok=True)
        assert found["nme_by"] == text
        assert found["nme_samples"] == (not math.isnan(expected))
    assert evaluate_points(off, target, visible, PLAIN, SIZE)["nme_by"] == "diagonal of the image"
    # One point, or points on a line, have no box.
    visible[0, 2:] = False
    assert math.isnan(evaluate_points(off, target, visible, PAIR, SIZE, nme="box")["nme"])


@pytest.mark.parametrize(
    ("by", "boxes", "message"),
    [
        ("boxes", None, "unknown 'boxes' \\(did you mean \"box\"\\?\\); expected"),
        (("nose",), None, 'unknown \\(\'nose\',\\); expected "box", "diagonal" or two keypoint names'),
        (("nose", "chim"), None, 'unknown keypoint "chim" \\(did you mean "chin"'),
        (None, torch.zeros(7, 4), 'expected nme="box"'),
        ("diagonal", torch.zeros(7, 4), 'by diagonal: expected nme="box"'),
        ("box", torch.zeros(7, 2), "expected boxes \\(7, 4\\), got \\(7, 2\\)"),
        ("box", torch.zeros(6, 4), "expected boxes \\(7, 4\\), got \\(6, 4\\)"),
    ],
)
def test_a_length_that_there_is_not(by: Any, boxes: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        evaluate_points(*example(), PAIR, SIZE, nme=by, boxes=boxes)
    assert isinstance(caught.value, KpnetError) or "boxes (7, 4)" in message.replace("\\", "")
