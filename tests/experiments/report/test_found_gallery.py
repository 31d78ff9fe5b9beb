"""The gallery of found instances: what is drawn about which of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.shapes import NAMES, trained_shapes

from kpnet.experiments.report import found_gallery
from kpnet.experiments.report.charts import ReportRow
from kpnet.experiments.report.found_gallery import build_found_gallery
from kpnet.experiments.report.page import group_runs, report_runs
from kpnet.inference.prediction import Prediction


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_shapes(tmp_path_factory.mktemp("found"))


built: list[Any] = []  # the models of the predictors that the test at hand has made


@pytest.fixture
def row(run: Path, monkeypatch: pytest.MonkeyPatch) -> ReportRow:
    """A row whose model finds the first instance of an image, and one that is not there."""
    (row,) = group_runs([run])
    built.clear()

    def predictor(model: Any) -> Any:
        built.append(model)

        def predict(pixels: np.ndarray) -> Prediction:
            scenes = found_gallery.scenes_of(model, found_gallery.validation_dataset(run, model))
            (index,) = [i for i in range(len(scenes)) if np.array_equal(scenes.image(i), pixels)]
            truth = scenes.truth(index)
            points = np.concatenate([truth.points[:1], np.full((1, 3, 2), 300.0)])
            boxes = np.concatenate([truth.boxes[:1], np.array([[1.0, 2, 11, 22]])])
            return Prediction("", NAMES, points, None, None, scores=np.full(len(points), 0.9), boxes=boxes)

        return predict

    monkeypatch.setattr(found_gallery, "Predictor", predictor)
    return row


def test_right_false_and_missed_instances(row: ReportRow) -> None:
    row.results[0].measures["instances"]["worst"] = [{"index": 1}]
    (image,) = build_found_gallery([row])
    (view,) = image.views
    assert [box.kind for box in view.boxes] == ["right", "false", "missed"]
    false = view.boxes[1]
    assert (false.x, false.y, false.width, false.height) == (1, 2, 10, 20)
    assert view.text == "1 missed, 1 false, 1 right"
    assert len(view.points) == 6
    assert image.title == "1_1.png"


def test_a_row_has_one_predictor_for_all_its_images(row: ReportRow) -> None:
    row.results[0].measures["instances"]["worst"] = [{"index": 0}, {"index": 1}]
    assert len(build_found_gallery([row])) == 2
    assert len(built) == 1


def test_without_errors_an_image_is_shown_all_the_same(row: ReportRow) -> None:
    row.results[0].measures["instances"]["worst"] = []
    (image,) = build_found_gallery([row])
    assert len(image.views) == 1


def test_a_row_of_one_instance_has_no_gallery(row: ReportRow) -> None:
    del row.results[0].measures["instances"]
    assert build_found_gallery([row]) == []


def test_missed_ones_are_dashed_and_false_ones_red_on_the_page(row: ReportRow, run: Path, tmp_path: Path) -> None:
    text = report_runs([run], tmp_path / "report.html").read_text()
    assert "Instances found, missed and false" in text
    assert "found AP" in text
    rects = re.findall(r'<rect class="box (\w+)" x="([\d.-]+)"', text)
    assert ("false", "1.00") in rects
    assert "missed" in {kind for kind, _ in rects}
    assert re.search(r"\.box\.missed \{[^}]*stroke-dasharray", text)
    assert re.search(r"\.box\.false \{ stroke: #ff2b2b", text)
