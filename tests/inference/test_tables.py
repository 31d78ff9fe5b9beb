"""The tables that `kpnet predict` writes, read back without kpnet."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kpnet.core.errors import KpnetError
from kpnet.inference.inputs import InputImage
from kpnet.inference.prediction import Prediction
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


# An image of two instances, and one of a head that has no confidence
TWO = (
    (predicted("x,1", [[[1, 2], [3, 4]], [[5, 6], [7.123456, 8]]], [[0.5, 1], [0.25, 0]]), *given("x", GREY)),
    (predicted("y", [[[-1, 0], [0, 1e-9]]]), *given("y", GREY)),
)


def written(table: Table, folder: Path, *entries: tuple[Prediction, InputImage, np.ndarray]) -> Path:
    with table.writing(folder) as path:
        for entry in entries:
            table.add(*entry)
    return path


def test_a_row_a_point_in_csv(tmp_path: Path) -> None:
    path = written(PredictionTable(as_json=False), tmp_path, *TWO)
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


def test_the_same_rows_in_json(tmp_path: Path) -> None:
    path = written(PredictionTable(as_json=True), tmp_path, *TWO)
    assert path == tmp_path / "predictions.json"
    found = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found[3] == {"image": "x,1", "instance": 1, "name": "b", "x": 7.123456, "y": 8.0, "confidence": 0.0}
    assert found[4]["confidence"] is None
    assert len(found) == 6


def found(name: str, *scores: float) -> Prediction:
    """Instances that were found: of number n, the points are n and n + 0.5."""
    points = np.arange(len(scores))[:, None, None] + np.array([[[0, 0], [0.5, 0.5]]])
    return Prediction(name, NAMES, points, np.ones((len(scores), 2)), None, scores=np.array(scores, float))


FOUND = (
    (found("two", 0.9, 0.4), *given("two", GREY)),
    (found("none"), *given("none", GREY)),
    (predicted("boxes", [[[1, 2], [3, 4]]]), *given("boxes", GREY)),  # nobody looked for it
)


def test_found_instances_have_a_score_and_an_image_without_one_is_there_in_json(tmp_path: Path) -> None:
    table = rows(written(PredictionTable(False, ["score"]), tmp_path, *FOUND))
    assert [(row["image"], row["instance"], row["x"], row["score"]) for row in table] == [
        *[("two", "0", "0.0000", "0.9000"), ("two", "0", "0.5000", "0.9000")],
        *[("two", "1", "1.0000", "0.4000"), ("two", "1", "1.5000", "0.4000")],
        *[("boxes", "0", "1.0000", ""), ("boxes", "0", "3.0000", "")],
    ]
    objects = json.loads(written(PredictionTable(True, ["score", "expected_oks"]), tmp_path, *FOUND).read_text())
    assert objects[4] == {"image": "none", "instances": []}
    assert objects[1] == {
        **{"image": "two", "instance": 0, "name": "b", "x": 0.5, "y": 0.5},
        **{"confidence": 1.0, "score": 0.9, "expected_oks": None},
    }
    assert [each.get("score") for each in objects] == [0.9, 0.9, 0.4, 0.4, None, None, None]


def test_labels_stay_and_the_rest_is_predicted(tmp_path: Path) -> None:
    table = LabelTable(NAMES, 1)
    labels = {"b": [1.123456789, 2.5, 0.75], "another": [0.0, 0.0, 1.0]}
    entry = (predicted("x", [[[1.00004, 2], [9, 9]]], [[0.87654, 0.1]]), *given("x", GREY, lambda: labels))
    path = written(table, tmp_path, entry)
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
    (row,) = rows(written(table, tmp_path, (predicted("x", [[[0, 0], [0, 0]]], [[1, 1]]), *given("x", colour))))
    assert int(row["Image"]) == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)


def test_what_the_layout_cannot_hold_is_refused_by_the_images_name(tmp_path: Path) -> None:
    fine = predicted("x", [[[0, 0], [0, 0]]], [[1, 1]])
    square = given("x", GREY)
    colour = np.zeros((3, 3, 3), np.uint8)
    coloured = colour.copy()
    coloured[0, 0, 0] = 1
    table = LabelTable(NAMES, 3)
    with table.writing(tmp_path) as path:
        table.add(fine, *square)
        table.add(fine, *given("grey in three channels", colour))
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
    assert len(rows(path)) == 2
    written(LabelTable(NAMES, 1), tmp_path, (fine, *given("coloured", coloured)))


@pytest.mark.parametrize("table", [PredictionTable(False), PredictionTable(True), LabelTable(NAMES, 1)])
def test_rows_are_on_the_disk_as_they_come_and_an_error_leaves_no_table(table: Table, tmp_path: Path) -> None:
    sizes = []

    def write() -> None:
        with table.writing(tmp_path):
            for name in "xyz":
                table.add(predicted(name, [[[0, 0], [0, 0]]], [[1, 1]]), *given(name, GREY))
                (beside,) = tmp_path.iterdir()
                sizes.append(beside.stat().st_size)
            raise KpnetError("no more")

    with pytest.raises(KpnetError, match="no more"):
        write()
    assert sizes == sorted(set(sizes))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["caf\udce9.png", "\ud800.png", "a\0b.png", 'a "b",\nc.png', "[x]$y$.png"])
def test_any_name_can_be_written(name: str, tmp_path: Path) -> None:
    entry = (predicted(name, [[[1, 2], [3, 4]]], [[1, 1]]), *given("x", GREY))
    with written(PredictionTable(False), tmp_path, entry).open(newline="", errors="surrogateescape") as file:
        found = [row["image"] for row in csv.DictReader(file)]
    assert found == [name.replace("\ud800", "\\ud800")] * 2  # half a pair is no byte of a file's name
    assert [row["image"] for row in json.loads(written(PredictionTable(True), tmp_path, entry).read_text())] == [
        name
    ] * 2


def test_a_table_without_rows_is_one(tmp_path: Path) -> None:
    assert json.loads(written(PredictionTable(True), tmp_path).read_text()) == []
    assert rows(written(PredictionTable(False), tmp_path)) == []


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("room", [700, 735, 777])
def test_a_full_disk_keeps_whole_rows(as_json: bool, room: int, tmp_path: Path) -> None:
    """A file may grow to `room` bytes and no further."""
    resource = pytest.importorskip("resource", reason="limits of POSIX")
    table, added = PredictionTable(as_json), 0
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with table.writing(tmp_path) as path, suppress(OSError):
            for added in range(100):
                table.add(predicted(f"{added}", [[[0, 0], [0, 0]]], [[1, 1]]), *given("", GREY))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    found = json.loads(path.read_text()) if as_json else rows(path)
    assert 2 < added < 99
    assert [row["image"] for row in found] == [str(number) for number in range(added) for _ in NAMES]
