"""What a model finds in whole images: an untrained one, or predictions that are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.shapes import NAMES, shapes_config, write_shapes

from kpnet import KpnetError, evaluate, load_model
from kpnet.config.loading import load_config
from kpnet.core.skeleton import Skeleton
from kpnet.data.formats.coco import COCO
from kpnet.data.wrappers.scenes import Scenes
from kpnet.evaluation import found as module
from kpnet.evaluation.coco import write_found
from kpnet.evaluation.found import calibrate_found, cross_fit_found, find_in, measure_found, scenes_of, score_threshold
from kpnet.evaluation.measurement import predict_dataset
from kpnet.inference.prediction import Prediction
from kpnet.models.build import build_model
from kpnet.models.instance_calibration import InstanceCalibration
from kpnet.models.test_time import TestTime

COUNTS = [2, 0, 3, 1, 2]


@pytest.fixture
def scenes(tmp_path: Path) -> Scenes:
    return Scenes(COCO(write_shapes(tmp_path, COUNTS)), size=(64, 64), in_channels=1)


def model_of(way: str) -> Any:
    values = load_config(shapes_config(Path("none.json"), None, way)).model.model_dump(mode="json")
    return build_model(values, skeleton=list(NAMES)).eval()


def true_predictions(scenes: Scenes, off: float = 0.0) -> list[Prediction]:
    """The true instances, `off` pixels to the right, with falling scores, and a false one of a score of 0.1."""
    found = []
    for index in range(len(scenes)):
        truth = scenes.truth(index)
        points = np.concatenate([truth.points + np.array([off, 0]), np.full((1, 3, 2), 300.0)])
        scores = np.append(np.linspace(0.9, 0.6, len(truth.points)), 0.1)
        boxes = np.concatenate([truth.boxes, np.full((1, 4), 300.0)])
        found.append(
            Prediction(truth.image, NAMES, points, np.full(points.shape[:2], 0.8), None, scores=scores, boxes=boxes)
        )
    return found


@pytest.mark.parametrize("way", ["two_stage", "single_stage"])
def test_an_untrained_model_is_measured(scenes: Scenes, way: str) -> None:
    """One prediction for each image, empty ones among them, in their order."""
    model = model_of(way)
    found = find_in(model, scenes, batch_size=2)
    assert [each.image for each in found] == [scenes.image_name(i) for i in range(len(scenes))]
    measures = measure_found(model, scenes, found)
    assert (measures["images"], measures["instances"]) == (5, sum(COUNTS))
    assert measures["threshold"] == score_threshold(model) == 0.3
    assert measures["default_sigmas"]


def test_measures_are_those_of_the_predictions(scenes: Scenes) -> None:
    measures = measure_found(model_of("two_stage"), scenes, true_predictions(scenes, 0.5))
    assert (measures["right"], measures["false"], measures["missed"]) == (sum(COUNTS), 0, 0)
    assert measures["mre_px"] == pytest.approx(0.5, abs=1e-6)
    assert measures["count_right"] == 1


def test_the_threshold_is_that_of_the_calibration() -> None:
    model = model_of("two_stage")
    model.instance_calibration = InstanceCalibration(0.61, 0.0, 1.0, 0.0, 0.0, 1.0, 30)
    assert score_threshold(model) == 0.61


def test_whole_images_of_crops_are_those_of_the_data(scenes: Scenes) -> None:
    model = model_of("two_stage")
    assert scenes_of(model, scenes) is scenes
    opened = scenes_of(model, scenes.dataset)
    assert [opened.image_name(i) for i in range(len(opened))] == [scenes.image_name(i) for i in range(len(scenes))]


def test_kpnet_evaluate_has_the_measures_beside_those_of_true_boxes(
    scenes: Scenes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_in", lambda *_: true_predictions(scenes))
    measures = evaluate(model_of("single_stage"), scenes)
    assert measures["instances"]["recall"] == 1
    assert measures["score"] > 0


def test_points_of_true_boxes_are_averaged_over_the_views(scenes: Scenes) -> None:
    """As by hand: half of the image's own points, and half of those of the mirrored image and its mirrored boxes."""
    model = model_of("single_stage")
    model.skeleton = Skeleton(NAMES, pairs=(("left_end", "right_end"),))
    own = predict_dataset(model, scenes, batch_size=2).predicted.keypoints
    mirrored = []
    for item in (scenes[index] for index in range(len(scenes))):
        boxes = item["boxes"][None, :, [2, 1, 0, 3]] * torch.tensor([-1.0, 1, -1, 1])
        mirrored.append(model.read(item["image"][None].flip(-1), boxes).keypoints)
    back = torch.cat(mirrored)[:, [0, 2, 1]] * torch.tensor([-1.0, 1])
    found = predict_dataset(model, scenes, batch_size=2, test_time=TestTime(flip=True)).predicted.keypoints
    assert (found - own).abs().max() > 1e-3
    torch.testing.assert_close(found, (own + back) / 2, atol=1e-5, rtol=0)


def test_few_instances_are_no_calibration(scenes: Scenes) -> None:
    with pytest.raises(KpnetError, match="at least 20 of them, found 8"):
        calibrate_found(true_predictions(scenes), scenes)


def test_a_calibration_separates_right_from_false(tmp_path: Path) -> None:
    """And it comes back from the disk with the model."""
    scenes = Scenes(COCO(write_shapes(tmp_path, [3, 2, 0] * 6)), size=(64, 64), in_channels=1)
    found = true_predictions(scenes)
    fitted = calibrate_found(found, scenes)
    assert fitted.instances == 30
    model = model_of("two_stage")
    model.instance_calibration = fitted
    calibrated = [fitted(each) for each in found]
    measures = measure_found(model, scenes, calibrated)
    assert (measures["precision"], measures["recall"]) == (1, 1)
    assert measures["reliability"]["ece"] < 0.1
    assert measures["reliability"]["oks_error"] < 0.1
    assert measure_found(model, scenes, found)["reliability"]["ece"] > 0.15, "raw scores from 0.6 are all right"
    model.save(tmp_path / "saved")
    assert load_model(tmp_path / "saved").instance_calibration == fitted


def test_each_half_is_calibrated_by_the_other(tmp_path: Path) -> None:
    """As by hand, where the two halves are wrong in different ways."""
    scenes = Scenes(COCO(write_shapes(tmp_path, [3, 2] * 14)), size=(64, 64), in_channels=1)
    exact, off = true_predictions(scenes), true_predictions(scenes, off=1.0)
    first = [index % 3 != 1 for index in range(28)]
    found = [exact[index] if here else off[index] for index, here in enumerate(first)]

    class Half:
        skeleton = scenes.skeleton

        def __init__(self, side: bool) -> None:
            self.indices = [index for index in range(28) if first[index] == side]

        def __len__(self) -> int:
            return len(self.indices)

        def truth(self, index: int) -> Any:
            return scenes.truth(self.indices[index])

    halves: dict[bool, Any] = {side: Half(side) for side in (True, False)}
    fits = {side: calibrate_found([found[i] for i in half.indices], half) for side, half in halves.items()}
    assert fits[True] != fits[False]
    for index, each in enumerate(cross_fit_found(found, scenes, first)):
        expected = fits[not first[index]](found[index])
        assert each.scores == pytest.approx(expected.scores)
    with pytest.raises(KpnetError, match="at least 20 of them, found 10"):
        cross_fit_found(found, scenes, [True] * 24 + [False] * 4)


def test_the_results_file_has_all_detections(scenes: Scenes, tmp_path: Path) -> None:
    """Those of low scores, and those on the image without an annotation."""
    write_found(true_predictions(scenes), scenes, tmp_path / "results.json")
    results = json.loads((tmp_path / "results.json").read_text())
    assert [sum(r["image_id"] == number for r in results) for number in range(5)] == [count + 1 for count in COUNTS]
    assert {r["category_id"] for r in results} == {1}
    assert np.reshape(results[0]["keypoints"], (3, 3))[:, :2] == pytest.approx(scenes.truth(0).points[0], abs=1e-4)
    assert min(r["score"] for r in results) == pytest.approx(0.08), "its score times the confidence of its points"


def test_results_are_of_coco_data(tmp_path: Path) -> None:
    from kpnet.data import SyntheticFaces

    with pytest.raises(KpnetError, match="needs COCO JSON"):
        write_found([], Scenes(SyntheticFaces(2), size=(64, 64)), tmp_path / "results.json")
