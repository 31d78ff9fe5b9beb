"""Label Studio's tasks: percent, rectangles, hidden points, annotators, predictions and names of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.format_files import dots, write_coco

from kpnet.core.errors import KpnetError
from kpnet.data import COCO, LabelStudio
from kpnet.data.build import open_dataset
from kpnet.data.convert import convert

SIZE = {"original_width": 80, "original_height": 60, "image_rotation": 0}  # of the images below


def point(name: Any, x: Any, y: Any, parent: str | None = None, own: str = "p", **value: Any) -> dict[str, Any]:
    """A region as the public layout describes it (https://labelstud.io/tags/keypointlabels)."""
    held = {"x": x, "y": y, "width": 0.5, "keypointlabels": [name], **value}
    region = {"id": own, "type": "keypointlabels", "from_name": "kp", "to_name": "img", "value": held, **SIZE}
    return region | ({"parentID": parent} if parent else {})


def rectangle(own: str, x: float, y: float, w: float, h: float, rotation: float = 0) -> dict[str, Any]:
    value = {"x": x, "y": y, "width": w, "height": h, "rotation": rotation, "rectanglelabels": ["head"]}
    return {"id": own, "type": "rectanglelabels", "from_name": "box", "to_name": "img", "value": value, **SIZE}


def choice(own: str, word: str) -> dict[str, Any]:
    return {"id": own, "type": "choices", "from_name": "seen", "to_name": "img", "value": {"choices": [word]}, **SIZE}


TWO = [
    rectangle("r1", 10, 20, 50, 50),
    point("nose", 25.9375, 21.666666666666668, "r1"),  # 20.75 and 13 of 80 and 60
    point("ear", 50, 50, "r1", "p2", hidden=True),
    point("nose", 80, 50, "r2"),
    rectangle("r2", 70, 40, 20, 20),
    point("ear", 75, 45, "r2", "p4"),
    choice("p4", "Occluded"),
]


def task(result: Any, image: Any = "/data/upload/1/0a1b2c3d-a.png", **more: Any) -> dict[str, Any]:
    return {"id": 7, "data": {"image": image}, "annotations": [{"id": 1, "result": result}], "predictions": []} | more


def write(folder: Path, tasks: Any, image: str = "a.png") -> Path:
    (folder / image).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / image), dots((60, 80), np.array([[20.25, 12.5]])))
    (folder / "project-1.json").write_text(json.dumps(tasks))
    return folder / "project-1.json"


def test_points_of_rectangles(tmp_path: Path) -> None:
    data = open_dataset(write(tmp_path, [task(TWO)]))
    assert isinstance(data, LabelStudio)
    assert data.skeleton.names == ("nose", "ear")
    assert len(data) == 2
    image, xy = data.read(0)
    assert np.allclose(xy, [[20.25, 12.5], [39.5, 29.5]])
    assert np.unravel_index(image[..., 0].T.argmax(), (80, 60)) == (20, 12)
    assert np.allclose(data.box(0), [7.5, 11.5, 47.5, 41.5])  # type: ignore[arg-type]
    assert data.visibility(0).tolist() == [2, 1]
    assert data.visibility(1).tolist() == [2, 1], "a choice of the region says that it is hidden"


def test_which_annotation_of_a_task_is_used(tmp_path: Path) -> None:
    one, other = [point("nose", 10, 10)], [point("nose", 50, 50)]
    several = [{"result": one}, {"result": other}]
    tasks = [
        task(one, annotations=several),
        task(one, "b.png", annotations=[{"result": one, "ground_truth": True}, {"result": other}]),
        task(one, "c.png", annotations=[{"result": one, "was_cancelled": True}]),
        task(one, "d.png", annotations=[], predictions=[{"result": one, "score": 0.9}]),
        task([], "e.png"),
        task(one, "f.png", annotations=[]),
    ]
    path = write(tmp_path, tasks)
    for name in "bcdef":
        write(tmp_path, tasks, f"{name}.png")
    data = LabelStudio(path)
    assert [(data.image_name(i), data.read(i)[1][0, 0].item()) for i in range(len(data))] == [
        ("a.png", 39.5), ("b.png", 7.5)]  # fmt: skip
    assert sorted(data.skipped.notes) == [
        "1 images or instances without a labelled point are not used; empty: true uses them",
        "1 tasks that were skipped are not used",
        "1 tasks with predictions alone (predictions: true uses them) are not used",
        "1 tasks without an annotation are not used",
        "2 annotations of other annotators are not used",
    ]
    data = LabelStudio(path, predictions=True, empty=True)
    assert [data.image_name(i) for i in range(len(data))] == ["a.png", "b.png", "d.png", "e.png"]


@pytest.mark.parametrize(
    ("stated", "file"),
    [
        ("/data/upload/1/0a1b2c3d-a.png", "a.png"),
        ("/data/upload/1/0a1b2c3d-a.png", "images/0a1b2c3d-a.png"),
        ("/data/local-files/?d=mice%20here/x/a.png", "x/a.png"),
        ("s3://bucket/x/a.png", "images/x/a.png"),
        ("https://example.org/x/a%20b.png?token=1", "a b.png"),
        ("C:\\me\\a.png", "a.png"),
        ("../../a.png", "a.png"),
        ("a&b <i>.png", "a&b <i>.png"),
    ],
)
def test_images_are_found_by_the_end_of_their_location(tmp_path: Path, stated: str, file: str) -> None:
    data = LabelStudio(write(tmp_path / "in", [task(TWO, stated)], file))
    assert data.path(0) in (tmp_path / "in" / file, tmp_path / "in" / "images" / Path(file).name)
    assert data.read(0)[0].shape == (60, 80, 3)


def test_the_labeling_config_gives_the_order_of_names(tmp_path: Path) -> None:
    path = write(tmp_path, [task(TWO)])
    (tmp_path / "config.xml").write_text(
        '<View><KeyPointLabels name="kp" toName="img"><Label value="ear"/><Label value="tail"/><Label value="nose"/>'
        '</KeyPointLabels><RectangleLabels name="b" toName="img"><Label value="head"/></RectangleLabels></View>'
    )
    assert LabelStudio(path).skeleton.names == ("ear", "tail", "nose")
    (tmp_path / "config.xml").write_text("<View>")
    with pytest.raises(KpnetError, match=r"config\.xml: not XML"):
        LabelStudio(path)


def test_the_numbers_are_those_of_label_studios_own_converter(tmp_path: Path) -> None:
    """`Converter` of label-studio-sdk 2.1.2 made the numbers below of kpnet's tasks; it rounds points to integers."""
    convert(COCO(write_coco(tmp_path / "a")), tmp_path / "b", "label_studio")
    regions = json.loads((tmp_path / "b" / "tasks.json").read_text())[1]["annotations"][0]["result"]
    values = [region["value"] for region in regions]
    points = [value[axis] / 100 * side for value in values[1:] for axis, side in (("x", 64), ("y", 48))]
    assert np.abs(np.array(points) - [10, 10, 31, 20, 50, 33]).max() <= 0.5 + 1e-9
    box = [values[0][key] / 100 * side for key, side in (("x", 64), ("y", 48), ("width", 64), ("height", 48))]
    assert np.allclose(box, [7.5, 7.5, 46, 29])


def test_predictions_are_written_to_be_corrected(tmp_path: Path) -> None:
    first = COCO(write_coco(tmp_path / "a"))
    convert(first, tmp_path / "b", {"name": "label_studio", "predictions": True})
    tasks = json.loads((tmp_path / "b" / "tasks.json").read_text())
    assert all(not each["annotations"] and len(each["predictions"]) == 1 for each in tasks)
    with pytest.raises(KpnetError, match="3 tasks with predictions alone"):
        open_dataset(tmp_path / "b")
    back = open_dataset(tmp_path / "b" / "tasks.json", {"name": "label_studio", "predictions": True})
    for k in range(len(first)):
        assert np.allclose(back.read(k)[1], first.read(k)[1], atol=1e-3, equal_nan=True)


BAD: dict[str, tuple[Any, str]] = {
    "no list": (
        {"data": 1},
        "expected Label Studio's JSON export: a list of tasks with data and annotations, found dict",
    ),
    "no task": ([3], "task 0: expected a mapping with data, found 3"),
    "no image": ([task(TWO, 3)], "task 7: data names no image"),
    "no regions": ([task("x")], "task 7: result: expected a list of regions, found x"),
    "boxes": (
        [task([rectangle("r", 1, 2, 3, 4)])],
        "no region in it is a point; expected regions of type keypointlabels",
    ),
    "polygons": ([task([{"type": "polygonlabels", "value": {}}])], "found 1 of type polygonlabels"),
    "text": ([task([point("nose", "9", 9)])], "task 7: nose has no finite x and y"),
    "two names": (
        [task([point("nose", 9, 9) | {"value": {"x": 1, "y": 2, "keypointlabels": ["a", "b"]}}])],
        "expected one name",
    ),
    "twice": ([task([point("nose", 9, 9), point("nose", 19, 9)])], 'several points without a group are called "nose"'),
    "no size": (
        [task([{**point("nose", 9, 9), "original_width": None}])],
        "original_width and original_height: expected",
    ),
    "rotated": ([task([{**point("nose", 9, 9), "image_rotation": 90}])], "the image is rotated in Label Studio"),
    "rotated box": ([task([rectangle("r", 1, 2, 3, 4, 30), point("a", 1, 1)])], "a rotated rectangle is no box"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_named(tmp_path: Path, name: str) -> None:
    tasks, message = BAD[name]
    with pytest.raises(KpnetError, match=message) as caught:
        LabelStudio(write(tmp_path, tasks), strict=True)
    assert "\n" not in str(caught.value)


def test_what_is_known_beyond_the_instances(tmp_path: Path) -> None:
    write(tmp_path, [], "b.png")
    write(tmp_path, [], "c.png")
    box = rectangle("r9", 0, 0, 10, 10)
    tasks = [task([*TWO, box]), task([], "b.png"), task([], "c.png", annotations=[])]  # nobody has seen c.png
    data = LabelStudio(write(tmp_path, tasks))
    found = {each.name: (each.read is not None, len(each.ignored), each.partial) for each in data.surroundings()}
    assert found == {"a.png": (False, 1, False), "b.png": (True, 0, False)}
