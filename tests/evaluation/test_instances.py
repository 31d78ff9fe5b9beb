"""Measures of found instances, in closed form and by pycocotools."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from support.scenes import SHAPE, SIGMAS, Found, Truth, found_at, truth_at

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.evaluation import instances
from kpnet.evaluation.instances import evaluate_instances, score_reliability
from kpnet.evaluation.matching import match_instances
from kpnet.oks import oks_ap

THINGS = Skeleton(("a", "b", "c"), sigmas=SIGMAS)
CENTRES = [(30, 30), (80, 30), (30, 80)]
MEASURED = ("pycocotools", "kpnet")


@pytest.fixture(params=MEASURED)
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether pycocotools is installed."""
    if request.param == "kpnet":
        monkeypatch.setattr(instances, "has_pycocotools", lambda: False)
    else:
        pytest.importorskip("pycocotools")
    return str(request.param)


def test_all_found_exactly(by: str) -> None:
    found = evaluate_instances([found_at(CENTRES, [0.9, 0.8, 0.7])] * 2, [truth_at(CENTRES)] * 2, THINGS)
    assert found["ap_by"] == by
    expected = {"AP": 1, "AP50": 1, "AR": 1, "precision": 1, "recall": 1, "f1": 1, "mre_px": 0, "nme": 0}
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert (found["images"], found["instances"], found["right"], found["false"], found["missed"]) == (2, 6, 6, 0, 0)
    assert (found["count_mae"], found["count_right"]) == (0, 1)
    assert math.isnan(found["APL"]), "there is no large instance"


def test_one_false_of_three(by: str) -> None:
    """The false one is the second best: at a recall of 1/2 precision is 1, at 1 it is 2/3."""
    found = evaluate_instances(
        [found_at([CENTRES[0], (150, 150), CENTRES[1]], [0.9, 0.8, 0.7])], [truth_at(CENTRES[:2])], THINGS
    )
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == 1
    assert found["f1"] == pytest.approx(4 / 5)
    assert found["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert (found["false"], found["count_mae"], found["count_right"]) == (1, 1, 0)


def test_the_threshold_is_for_what_counts_as_found_alone() -> None:
    predictions, truth = [found_at([*CENTRES, (150, 150)], [0.9, 0.8, 0.3, 0.2])], [truth_at(CENTRES)]
    found = evaluate_instances(predictions, truth, THINGS, threshold=0.5)
    assert (found["right"], found["false"], found["missed"]) == (2, 0, 1)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["AR"] == pytest.approx(1)
    assert found["count_mae"] == 1
    assert evaluate_instances(predictions, truth, THINGS, threshold=0.25)["recall"] == 1


def test_errors_are_those_of_the_points_that_were_matched() -> None:
    """1 px off in x: the instance's box is 20 px wide and high."""
    off = [(x + 1, y) for x, y in CENTRES]
    found = evaluate_instances([found_at([*off, (150, 150)], [0.9] * 4)], [truth_at(CENTRES)], THINGS)
    assert found["right"] == 3
    assert found["mre_px"] == pytest.approx(1)
    assert (found["nme"], found["nme_by"]) == (pytest.approx(1 / 20), "box of the instance")
    pair = evaluate_instances([found_at(off, [0.9] * 3)], [truth_at(CENTRES)], THINGS, nme=("a", "b"))
    assert (pair["nme"], pair["nme_by"]) == (pytest.approx(1 / 20), "distance from a to b")
    assert found["points"] == 9


@pytest.mark.parametrize(
    "truth",
    [
        truth_at(CENTRES, ignored=[(140, 140, 160, 160)]),
        truth_at(CENTRES, partial=True),
        truth_at([*CENTRES, (150, 150)], hidden=[3]),
    ],
    ids=["ignored region", "partly labelled", "instance without points"],
)
def test_what_is_neither_right_nor_wrong_changes_nothing(truth: Truth, by: str) -> None:
    """Two false detections with the highest scores; anywhere else they cost half of the precision."""
    predictions = [found_at([(150, 150), (151, 149), *CENTRES], [0.95, 0.94, 0.9, 0.8, 0.7])]
    found = evaluate_instances(predictions, [truth], THINGS)
    assert found["AP"] == pytest.approx(1)
    assert (found["precision"], found["recall"], found["instances"]) == (1, 1, 3)
    if truth.partial:
        assert math.isnan(found["count_mae"])
    else:
        assert found["count_right"] == 1
    assert evaluate_instances(predictions, [truth_at(CENTRES)], THINGS)["AP"] < 0.7


def random_scenes(count: int) -> tuple[list[Found], list[Truth]]:
    rng = np.random.default_rng(0)
    found, truth = [], []
    for _ in range(count):
        middles = rng.uniform(20, 400, (rng.integers(0, 5), 2))
        truth.append(truth_at([(x, y) for x, y in middles]))
        kept = middles[rng.uniform(size=len(middles)) < 0.8]
        kept = np.concatenate([kept, rng.uniform(20, 400, (rng.integers(0, 3), 2))])
        points = kept[:, None] + SHAPE + rng.normal(0, 0.6, (len(kept), 3, 2))
        found.append(Found(points, rng.uniform(size=len(kept))))
    return found, truth


def test_pycocotools_and_ours_agree() -> None:
    pytest.importorskip("pycocotools")
    found, truth = random_scenes(40)
    measures = evaluate_instances(found, truth, THINGS)
    ours = oks_ap(
        [each.keypoints for each in found],
        [each.scores for each in found],
        [each.points for each in truth],
        [each.visible for each in truth],
        [each.areas for each in truth],
        SIGMAS,
    )
    assert 0.2 < measures["AP"] < 0.8
    assert {name: measures[name] for name in ours} == pytest.approx(ours, nan_ok=True)


def test_an_image_full_of_instances(by: str) -> None:
    """100 of them: COCO's limit of 20 detections would leave an AR of 0.2."""
    centres = [(40.0 * x, 40.0 * y) for x in range(10) for y in range(10)]
    found = evaluate_instances([found_at(centres, [0.9] * 100)], [truth_at(centres)], THINGS)
    assert found["AR"] == pytest.approx(1)
    assert found["recall"] == 1


def test_nothing_found(by: str) -> None:
    found = evaluate_instances([found_at([], [])] * 2, [truth_at(CENTRES), truth_at([])], THINGS)
    assert (found["AP"], found["recall"], found["f1"], found["missed"]) == (0, 0, 0, 3)
    assert math.isnan(found["precision"])
    assert math.isnan(found["mre_px"])
    assert found["count_right"] == 0.5
    assert found["reliability"] == {}


def test_a_skeleton_without_sigmas_has_005_for_all() -> None:
    found = evaluate_instances([found_at(CENTRES, [1] * 3)], [truth_at(CENTRES)], Skeleton(("a", "b", "c")))
    assert found["default_sigmas"]
    assert found["sigmas"] == [0.05] * 3
    assert not evaluate_instances([found_at(CENTRES, [1] * 3)], [truth_at(CENTRES)], THINGS)["default_sigmas"]


def test_data_without_instances_is_named() -> None:
    with pytest.raises(KpnetError, match="no image of the data has an instance"):
        evaluate_instances([found_at([], [])], [truth_at([])], THINGS)
    with pytest.raises(ValueError, match="argument 2 is longer"):
        evaluate_instances([found_at([], [])], [truth_at(CENTRES)] * 2, THINGS)


def reliability(scores: list[float], right: int, **more: Any) -> dict[str, Any]:
    """Of detections with these scores, the first `right` are on an instance."""
    centres = [(60.0 * i, 20.0) for i in range(len(scores))]
    found = found_at(centres, scores)
    found.expected_oks = more.get("expected_oks")
    return dict(evaluate_instances([found], [truth_at(centres[:right])], THINGS)["reliability"])


def test_a_calibrated_score_has_no_calibration_error() -> None:
    """Of ten with a score of 0.75, 0.5 are 0.25 off; of four with 0.75, three are right."""
    assert reliability([0.75] * 4, 3)["ece"] == pytest.approx(0)
    found = reliability([0.75] * 10, 5)
    assert found["ece"] == pytest.approx(0.25)
    assert found["diagram"] == [{"score": 0.75, "right": 0.5, "detections": 10}]
    assert "oks_error" not in found


def test_expected_oks_is_compared_with_the_actual_one() -> None:
    """Right ones have an OKS of 1, false ones of 0."""
    found = reliability([0.9, 0.9, 0.2], 2, expected_oks=np.array([0.85, 0.85, 0.15]))
    assert found["oks_error"] == pytest.approx(0.15)
    assert [row["oks"] for row in found["oks_diagram"]] == pytest.approx([0, 1])


def test_what_counts_for_nothing_is_not_in_the_reliability() -> None:
    matches = match_instances(
        [found_at([CENTRES[0], (150, 150)], [0.9, 0.8])], [truth_at(CENTRES[:1], partial=True)], SIGMAS
    )
    assert [row["detections"] for row in score_reliability(matches)["diagram"]] == [1]


def test_the_worst_images_are_named() -> None:
    """One is missed in the second image, one is missed and one false in the third."""
    found = [found_at(CENTRES, [1] * 3), found_at(CENTRES[1:], [1] * 2), found_at([*CENTRES[1:], (150, 150)], [1] * 3)]
    worst = evaluate_instances(found, [truth_at(CENTRES)] * 3, THINGS, threshold=0.5)["worst"]
    assert [(each["index"], each["missed"], each["false"]) for each in worst] == [(2, 1, 1), (1, 1, 0)]
    assert worst[0]["image"] == "a.png"
