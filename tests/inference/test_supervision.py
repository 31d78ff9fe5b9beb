"""Predictions as supervision's key points, and back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kpnet import KpnetError
from kpnet.inference.prediction import Prediction

XY = np.array([[[20.25, 12.5], [np.nan, np.nan], [70.125, 40]], [[1, 2], [3, 4], [5, 6]]])


def test_there_and_back() -> None:
    sv: Any = pytest.importorskip("supervision", reason="supervision is not installed")
    confidence = np.linspace(0.1, 0.9, 6).reshape(2, 3)
    first = Prediction("a.png", ("nose", "l_ear", "r_ear"), XY, confidence, np.tile(np.eye(2), (2, 3, 1, 1)))
    made = first.to_supervision()
    assert isinstance(made, sv.KeyPoints)
    assert len(made) == 2
    assert made.visible.tolist() == [[True, False, True], [True] * 3]
    assert made.xy[0, 1].tolist() == [0, 0]
    second = Prediction.from_supervision(made, "a.png")
    assert second.names == first.names
    assert np.allclose(second.keypoints, XY, atol=1e-3, equal_nan=True)
    assert np.allclose(second.confidence, confidence)  # type: ignore[arg-type]
    assert np.allclose(second.covariance, first.covariance)  # type: ignore[arg-type]
    assert np.allclose(Prediction.from_supervision(made[1:]).keypoints, XY[1:])


def test_scores_and_boxes_of_instances() -> None:
    pytest.importorskip("supervision", reason="supervision is not installed")
    scores, boxes = np.array([0.9, 0.25]), np.array([[0.0, 1, 80, 50], [0, 0, 9, 9]])
    first = Prediction("a", tuple("abc"), XY, None, None, scores=scores, boxes=boxes, expected_oks=scores / 2)
    made: Any = first.to_supervision()
    assert made.as_detections().confidence.tolist() == [np.float32(0.9), 0.25]
    assert made[1:].data["xyxy"].tolist() == [[0, 0, 9, 9]]
    second = Prediction.from_supervision(made)
    assert second.scores == pytest.approx(scores)
    assert np.array_equal(second.boxes, boxes)  # type: ignore[arg-type]
    assert np.array_equal(second.expected_oks, scores / 2)  # type: ignore[arg-type]
    assert Prediction.from_supervision(Prediction("", ("a",), XY[:, :1], None, None).to_supervision()).scores is None


def test_a_drawn_point_is_where_the_prediction_is() -> None:
    sv: Any = pytest.importorskip("supervision", reason="supervision is not installed")
    made = Prediction("", ("a",), np.array([[[20.0, 12.0]]]), None, None).to_supervision()
    drawn = sv.VertexAnnotator(color=sv.Color.WHITE, radius=3).annotate(np.zeros((40, 60, 3), np.uint8), made)
    y, x = np.nonzero(drawn[..., 0])
    assert (x.mean(), y.mean()) == (20, 12)


def test_points_of_other_models_and_none() -> None:
    sv: Any = pytest.importorskip("supervision", reason="supervision is not installed")
    other = sv.KeyPoints(xy=np.array([[[1, 2], [0, 0]]], np.float32))
    found = Prediction.from_supervision(other, "b")
    assert found.names == ("0", "1")
    assert np.array_equal(found.keypoints, np.array([[[1, 2], [np.nan, np.nan]]]), equal_nan=True)
    assert Prediction.from_supervision(sv.KeyPoints.empty(), names=["a"]).keypoints.shape == (0, 1, 2)
    none = Prediction("", ("a", "b"), np.zeros((0, 2, 2)), None, None)
    assert Prediction.from_supervision(none.to_supervision(), names=["a", "b"]).keypoints.shape == (0, 2, 2)
    with pytest.raises(KpnetError, match="2 points and 1 names: a"):
        Prediction.from_supervision(other, names=["a"])


@pytest.mark.parametrize("xy", [None, "x", np.zeros((2, 3)), [[["a", "b"]]]])
def test_what_is_no_key_points(xy: Any) -> None:
    with pytest.raises(KpnetError, match=r"expected supervision.KeyPoints with xy \(N, K, 2\), found SimpleNamespace"):
        Prediction.from_supervision(SimpleNamespace(xy=xy))  # type: ignore[arg-type]
