"""labelme's files: points by group, hidden ones, boxes, empty files, and what cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.format_files import dots

from kpnet.core.errors import KpnetError
from kpnet.data import LabelMe
from kpnet.data.build import open_dataset


def shape(label: Any, points: Any, group: Any = None, kind: Any = "point", **flags: bool) -> dict[str, Any]:
    """A shape in the order of keys in which labelme 6.3.1's `LabelFile.save` writes it."""
    return {"label": label, "points": points, "group_id": group, "description": "", "shape_type": kind,
            "flags": flags, "mask": None}  # fmt: skip


def write(folder: Path, shapes: Any, name: str = "a", **values: Any) -> Path:
    folder.mkdir(exist_ok=True)
    cv2.imwrite(str(folder / f"{name}.png"), dots((60, 80), np.array([[20.25, 12.5]])))
    file = {"version": "6.3.1", "flags": {}, "shapes": shapes, "imagePath": f"{name}.png", "imageData": None,
            "imageHeight": 60, "imageWidth": 80} | values  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(file, indent=2))
    return folder


TWO = [
    shape("head", [[67.5, 9.5], [13.5, 44.5]], 0, "rectangle"),
    shape("nose", [[20.75, 13.0]], 0),
    shape("right_ear", [[14.5, 40.5]], 0, occluded=True, sure=False),
    shape("nose", [[64.5, 31.0]], 1),
    shape("tail", [[1, 2], [3, 4], [5, 9]], 1, "polygon"),
]


def test_points_boxes_and_hidden_ones(tmp_path: Path) -> None:
    data = open_dataset(write(tmp_path / "a", TWO))
    assert isinstance(data, LabelMe)
    assert data.skeleton.names == ("nose", "right_ear")
    assert [data.instance(i) for i in range(len(data))] == [0, 1]
    image, xy = data.read(0)
    assert xy.tolist() == [[20.25, 12.5], [14, 40]]
    x, y = np.unravel_index(image[..., 0].T.argmax(), (80, 60))
    assert (x, y) == (20, 12), "the canvas begins at the pixel's corner"
    assert data.visibility(0).tolist() == [2, 1]
    assert data.box(0).tolist() == [13, 9, 67, 44]  # type: ignore[union-attr]
    assert data.visibility(1).tolist() == [2, 0]
    assert data.box(1) is None
    assert data.skipped.notes == ["shapes that are no points are not used: 1 of type polygon"]


def test_points_without_a_group_are_one_instance(tmp_path: Path) -> None:
    shapes = [
        shape("eye", [[9, 9]]),
        {"label": "nose", "points": [[5, 5]]},
        shape("x", [[1, 1], [20, 20]], 3, "rectangle"),
    ]
    data = LabelMe(write(tmp_path / "a", shapes))
    assert len(data) == 1
    assert data.box(0).tolist() == [0.5, 0.5, 19.5, 19.5]  # type: ignore[union-attr]
    write(tmp_path / "a", [shape("eye", [[9, 9]]), shape("eye", [[30, 9]])], "b")
    again = LabelMe(tmp_path / "a")
    assert again.skipped.messages == [
        'b.json: several points without a group are called "eye"; expected a group for each instance']  # fmt: skip


def test_a_file_without_shapes_is_an_image_with_nothing_on_it(tmp_path: Path) -> None:
    write(tmp_path / "a", TWO)
    write(tmp_path / "a", [], "b")
    data = LabelMe(tmp_path / "a")
    assert len(data) == 2
    assert "1 images or instances without a labelled point are not used; empty: true uses them" in data.skipped.notes
    data = LabelMe(tmp_path / "a", empty=True)
    assert [data.image_name(i) for i in range(3)] == ["a.png", "a.png", "b.png"]
    assert data.visibility(2).tolist() == [0, 0]


def test_names_in_the_order_of_labels_txt(tmp_path: Path) -> None:
    write(tmp_path / "a", TWO)
    (tmp_path / "a" / "labels.txt").write_text("__ignore__\n_background_\nhead\nright_ear\nleft_ear\nnose\n")
    assert LabelMe(tmp_path / "a").skeleton.names == ("right_ear", "left_ear", "nose")
    (tmp_path / "a" / "labels.txt").write_text("right_ear\n")
    data = LabelMe(tmp_path / "a")
    assert data.skeleton.names == ("right_ear", "nose")
    assert "labels.txt lacks nose, which are points nevertheless" in data.skipped.notes


@pytest.mark.parametrize("stated", ["a.png", ".\\a.png", "C:\\me\\a.png", "/gone/a.png", "gone.png", "../labels/a.png"])
def test_the_image_is_found_as_stated_or_beside_the_file(tmp_path: Path, stated: str) -> None:
    data = LabelMe(write(tmp_path / "labels", TWO, imagePath=stated))
    assert data.image_name(0) == "a.png"
    assert data.read(0)[0].shape == (60, 80, 3)


def test_images_in_a_folder_beside_that_of_the_files(tmp_path: Path) -> None:
    write(tmp_path / "labels", TWO, imagePath="..\\images\\a.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "labels" / "a.png").rename(tmp_path / "images" / "a.png")
    for opened in (tmp_path, tmp_path / "labels", tmp_path / "labels" / "a.json"):
        data = open_dataset(opened)
        assert data.read(0)[0].shape == (60, 80, 3)
        assert data.read(0)[1][0].tolist() == [20.25, 12.5]


BAD: dict[str, tuple[Any, str]] = {
    "a label": ([shape(3, [[1, 2]])], r"a.json: shapes\[0\]: label: expected a name, found 3; it is left out"),
    "points": (
        [shape("a", [[1, "2"]])],
        r"a.json: shapes\[0\]: points: expected pairs of numbers, found \[\[1, '2'\]\]",
    ),
    "nan": ([shape("a", [[1, float("nan")]])], r"points: expected pairs of numbers"),
    "group": ([shape("a", [[1, 2]], {"a": 1})], r"group_id: expected a number or null, found \{'a': 1\}"),
    "no mapping": ([7], r"shapes\[0\]: it is no mapping"),
    "polygons": (
        [shape("a", [[1, 2], [3, 4], [5, 6]], None, "polygon")],
        "labelme's shapes are 1 of type polygon, and none",
    ),
    "no list": ({"a": 1}, "no list of shapes in it; expected a labelme file"),
    "far": ([shape("a", [[1e30, 2]])], "a is at 1e.30, 1.5; expected pixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_named(tmp_path: Path, name: str) -> None:
    shapes, message = BAD[name]
    with pytest.raises(KpnetError, match=message) as caught:
        LabelMe(write(tmp_path / "a", shapes), strict=name != "polygons")
    assert "\n" not in str(caught.value)


def test_an_image_path_that_is_none(tmp_path: Path) -> None:
    write(tmp_path / "a", TWO)
    for number, value in enumerate([None, 3, "", "a" * 5000]):
        write(tmp_path / "a", TWO, f"b{number}", imagePath=value)
    (tmp_path / "a" / "c.json").write_text('{"shapes": [{"label": "nose", "po')
    data = LabelMe(tmp_path / "a")
    assert len(data) == 2
    assert [message.partition(":")[0] for message in data.skipped.messages] == [
        "b0.json", "b1.json", "b2.json", "b3.json", "c.json, line 1"]  # fmt: skip


def test_what_is_known_beyond_the_instances(tmp_path: Path) -> None:
    write(tmp_path / "a", [*TWO[:4], shape("head", [[1, 1], [5, 9]], 2, "rectangle")])
    write(tmp_path / "a", [], "b")
    write(tmp_path / "a", [shape("tail", [[1, 2], [3, 4], [5, 9]], 1, "polygon")], "c")
    data = LabelMe(tmp_path / "a")
    found = {each.name: (each.read is not None, len(each.ignored), each.partial) for each in data.surroundings()}
    assert found == {"a.png": (False, 1, False), "b.png": (True, 0, False), "c.png": (True, 0, True)}
    assert [each.ignored.tolist() for each in data.surroundings() if len(each.ignored)] == [[[0.5, 0.5, 4.5, 8.5]]]
    more = LabelMe(tmp_path / "a", empty=True).surroundings()
    assert [(each.name, len(each.ignored)) for each in more] == [("c.png", 0)]  # the others are samples
