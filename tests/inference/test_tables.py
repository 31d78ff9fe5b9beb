"""The tables that `kpnet predict` writes, read back without kpnet."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kpnet.core.errors import KpnetError
from kpnet.inference.inputs import InputImage
from kpnet.inference.predictor import Prediction
from kpnet.inference.tables import LabelTable, PredictionTable, Table

NAMES = ("a", "b")


def given(
    name: str, image: np.ndarray, labels: Callable[[], Mapping[str, list[float]]] = dict
) -> tuple[InputImage, np.ndarray]:
    return InputImage(name, Path(f"sub/{name}.png"), lambda: image, labels), image


def predicted(name: str, points: Any, confidence: Any = None) -> Prediction:
    sure = None if confidence is None else np.array(confidence, np.float32)
    return Prediction(name, NAMES, np.array(points, float), sure, None)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


GREY = np.arange(9, dtype=np.uint8).reshape(3, 3)


@pytest.fixture
def two() -> Callable[[Table], Table]:
    """A table with an image of two instances and one of a head that has no confidence."""

    def fill(table: Table) -> Table:
        table.add(
            predicted("x,1", [[[1, 2], [3, 4]], [[5, 6], [7.123456, 8]]], [[0.5, 1], [0.25, 0]]), *given("x", GREY)
        )
        table.add(predicted("y", [[[-1, 0], [0, 1e-9]]]), *given("y", GREY))
        return table

    return fill


def test_a_row_a_point_in_csv(two: Callable[[Table], Table], tmp_path: Path) -> None:
    path = two(PredictionTable(as_json=False)).save(tmp_path)
    assert path == tmp_path / "predictions.csv"
    found = rows(path)
    assert list(found[0]) == ["image", "instance", "name", "x", "y", "confidence"]
    assert [(row["image"], row["instance"], row["name"]) for row in found] == [
        *[("x,1", "0", "a"), ("x,1", "0", "b"), ("x,1", "1", "a"), ("x,1", "1", "b")],
        *[("y", "0", "a"), ("y", "0", "b")],
    ]
    assert [float(row["x"]) for row in found] == [1, 3, 5, 7.1235, -1, 0]
    assert [float(row["y"]) for row in found] == [2, 4, 6, 8, 0, 0]
    assert [row["confidence"] for row in found] == ["0.5000", "1.0000", "0.2500", "0.0000", "", ""]


def test_the_same_rows_in_json(two: Callable[[Table], Table], tmp_path: Path) -> None:
    path = two(PredictionTable(as_json=True)).save(tmp_path)
    assert path == tmp_path / "predictions.json"
    found = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found[3] == {"image": "x,1", "instance": 1, "name": "b", "x": 7.123456, "y": 8.0, "confidence": 0.0}
    assert found[4]["confidence"] is None
    assert len(found) == 6


def test_labels_stay_and_the_rest_is_predicted(tmp_path: Path) -> None:
    table = LabelTable(NAMES, 1)
    labels = {"b": [1.123456789, 2.5, 0.75], "another": [0.0, 0.0, 1.0]}
    table.add(predicted("x", [[[1.00004, 2], [9, 9]]], [[0.87654, 0.1]]), *given("x", GREY, lambda: labels))
    path = table.save(tmp_path)
    assert path == tmp_path / "labels.csv"
    (row,) = rows(path)
    assert row == {
        "ImageId": "sub/x",
        **{"a_x": "1.0", "a_y": "2.0", "a_weight": "0.8765"},
        **{"b_x": "1.123456789", "b_y": "2.5", "b_weight": "0.75"},
        "Image": "0 1 2 3 4 5 6 7 8",
    }


def test_a_colour_image_is_written_as_the_grey_that_a_grey_model_saw(tmp_path: Path) -> None:
    table = LabelTable(NAMES, 1)
    colour = np.zeros((1, 1, 3), np.uint8)
    colour[0, 0] = (200, 100, 50)
    table.add(predicted("x", [[[0, 0], [0, 0]]], [[1, 1]]), *given("x", colour))
    (row,) = rows(table.save(tmp_path))
    assert int(row["Image"]) == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)


def test_what_the_layout_cannot_hold_is_refused_by_the_images_name() -> None:
    fine = predicted("x", [[[0, 0], [0, 0]]], [[1, 1]])
    square = given("x", GREY)
    table = LabelTable(NAMES, 3)
    table.add(fine, *square)
    colour = np.zeros((3, 3, 3), np.uint8)
    table.add(fine, *given("grey in three channels", colour))
    coloured = colour.copy()
    coloured[0, 0, 0] = 1
    for prediction, (image, pixels), parts in (
        (fine, given("oblong", GREY[:2]), ("oblong", "3x2")),
        (fine, given("smaller", GREY[:2, :2]), ("smaller", "2x2", "3x3")),
        (fine, given("coloured", coloured), ("coloured",)),
        (predicted("x", np.zeros((2, 2, 2)), np.ones((2, 2))), given("several", GREY), ("several", "2 instances")),
        (predicted("x", [[[0, 0], [0, 0]]]), square, ("--pseudo-labels", "kpnet calibrate")),
    ):
        with pytest.raises(KpnetError) as caught:
            table.add(prediction, image, pixels)
        assert all(part in str(caught.value) for part in parts), caught.value
    LabelTable(NAMES, 1).add(fine, *given("coloured", coloured))
