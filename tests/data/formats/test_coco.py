"""COCO keypoints JSON: what it says, and what is wrong with one."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO as Published
from support.format_files import NAMES, coco_values, every_instance, write_coco
from support.paths import SHARED
from support.pixels import read_bgr

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data import COCO
from kpnet.data.formats.coco import annotation_values

MINI = SHARED / "data" / "coco_mini" / "person_keypoints.json"

Change = Callable[[dict[str, Any]], Any]


def test_names_edges_pairs_boxes_visibility(tmp_path: Path) -> None:
    data = COCO(write_coco(tmp_path))
    assert data.skeleton == Skeleton(NAMES, (("left_ear", "right_ear"),), (("nose", "left_ear"), ("nose", "right_ear")))
    assert data.visibility(0).tolist() == [2, 2, 1]
    assert data.visibility(3).tolist() == [2, 0, 1]
    # The box was drawn 3 px about the points, in pixels whose centres are whole numbers.
    box = data.box(0)
    assert box is not None
    assert np.allclose(box, [14 - 3, 12.5 - 3, 50 + 3, 40 + 3])
    assert data.image_ids.tolist() == [100, 100, 101, 102]
    assert data.areas[0] == pytest.approx(42 * 33.5 / 2)


@pytest.mark.skipif(not MINI.is_file(), reason=f"no {MINI} (set KPNET_SHARED)")
def test_real_people_as_pycocotools_has_them() -> None:
    """All that pycocotools gives, but for its boxes, which begin half a pixel before the first pixel's centre."""
    data, published = COCO(MINI), Published(str(MINI))
    expected = [a for a in published.loadAnns(published.getAnnIds(iscrowd=False)) if a["num_keypoints"]]
    assert data.image_ids.tolist() == [a["image_id"] for a in expected]
    assert data.skeleton == Skeleton.load("coco17")
    category = published.loadCats(1)[0]
    assert list(data.skeleton.names) == category["keypoints"]
    names = category["keypoints"]
    assert set(data.skeleton.edges) == {(names[a - 1], names[b - 1]) for a, b in category["skeleton"]}
    for index, annotation in enumerate(expected):
        points = np.array(annotation["keypoints"], float).reshape(-1, 3)
        assert data.visibility(index).tolist() == points[:, 2].tolist()
        labelled = points[:, 2] > 0
        assert np.array_equal(data.keypoints(index)[labelled], points[labelled, :2])
        assert np.isnan(data.keypoints(index)[~labelled]).all()
        box, (x, y, w, h) = data.box(index), annotation["bbox"]
        assert box is not None
        assert np.allclose(box + 0.5, [x, y, x + w, y + h])
        assert data.image_name(index) == published.imgs[annotation["image_id"]]["file_name"]
    of_images = Counter(annotation["image_id"] for annotation in expected)
    assert Counter(data.image_name(i) for i in range(len(data))).most_common(1)[0][1] == max(of_images.values())
    assert max(data.instance(i) for i in range(len(data))) == max(of_images.values()) - 1


def test_crowds_are_left_out_and_the_unlabelled_too_unless_asked_for(tmp_path: Path) -> None:
    values = coco_values()
    values["annotations"][0]["iscrowd"] = 1
    values["annotations"][1]["keypoints"] = [0] * 9
    path = write_coco(tmp_path, values)
    assert COCO(path).image_ids.tolist() == [101, 102]
    empty = COCO(path, empty=True)
    assert empty.image_ids.tolist() == [100, 101, 102]
    assert not empty.labels()[0].any()
    assert empty.box(0) is not None


@pytest.mark.parametrize(
    "odd", [[[1], [2]], [1, 9], [0, 1], [1], True, [True, 2], ["1", 2], [1.5, 2], 3, "ab", {"a": 1}]
)
@pytest.mark.parametrize("strict", [False, True])
def test_edges_that_are_none_are_not_drawn(tmp_path: Path, odd: Any, strict: bool) -> None:
    values = coco_values()
    values["categories"][0]["skeleton"] = [[1, 2], odd, [3.0, 1.0]]
    data = COCO(write_coco(tmp_path, values), strict=strict)
    assert len(data) == 4
    assert data.skeleton.edges == (("nose", "left_ear"), ("right_ear", "nose"))
    expected = "the category's skeleton: 1 of its entries are no pairs of numbers from 1 to 3 and are not drawn"
    assert (data.skipped.messages, data.skipped.notes) == ([], [expected])


@pytest.mark.parametrize("edges", [3, "ab", {"a": 1}])
def test_a_skeleton_that_is_no_list_is_not_drawn(tmp_path: Path, edges: Any) -> None:
    values = coco_values()
    values["categories"][0]["skeleton"] = edges
    data = COCO(write_coco(tmp_path, values))
    assert data.skeleton.edges == ()
    assert len(data.skipped.notes) == 1


def test_ids_of_any_length_are_kept(tmp_path: Path) -> None:
    values = coco_values()
    values["annotations"][0]["id"] = 10**20
    values["images"][0]["id"] = values["annotations"][3]["image_id"] = 2**63
    assert COCO(write_coco(tmp_path, values)).image_ids.tolist() == [100, 100, 101, 2**63]


def test_where_pictures_are(tmp_path: Path) -> None:
    path = write_coco(tmp_path)
    assert COCO(path).path(0) == tmp_path / "images" / "a.png"
    (tmp_path / "images").rename(tmp_path / "other")
    assert COCO(path, images="other").path(0) == tmp_path / "other" / "a.png"
    assert COCO(path).path(0) == tmp_path / "other" / "a.png"
    hidden = (tmp_path / "other").rename(tmp_path / ".hidden")
    with pytest.raises(
        KpnetError, match=r"heads\.json: no usable labelled instances; 4 skipped: annotation 7: no image"
    ):
        COCO(path)
    hidden.rename(tmp_path / "other")
    with pytest.raises(KpnetError, match="images: no such folder"):
        COCO(path, images="gone")
    for picture in (tmp_path / "other").iterdir():
        picture.rename(tmp_path / picture.name)
    assert COCO(path).path(0) == tmp_path / "a.png"


@pytest.mark.parametrize("exif", [None, True, False])
@pytest.mark.parametrize("said", ["stored", "shown", "neither"])
def test_the_size_in_the_file_tells_which_way_up_points_are(tmp_path: Path, exif: bool | None, said: str) -> None:
    path = write_coco(tmp_path)
    picture = read_bgr(tmp_path / "images" / "a.png")[..., ::-1]
    tag = Image.Exif()
    tag[0x112] = 6
    Image.fromarray(np.ascontiguousarray(picture)).save(tmp_path / "images" / "a.png", exif=tag)
    values = coco_values()
    values["images"][2] |= {"stored": {}, "shown": {"height": 80, "width": 60}, "neither": {"height": 30}}[said]
    path.write_text(json.dumps(values))
    data = COCO(path, exif=exif)
    stored, shown = (60, 80), (80, 60)
    right = {"stored": stored, "shown": shown}.get(said)
    if right is None:
        with pytest.raises(KpnetError, match=r"a\.png: .* pixels, and .*heads\.json says .*: were the images resized"):
            data.read(0)
    else:
        asked = {None: right, True: shown, False: stored}[exif]
        assert data.read(0)[0].shape[:2] == asked, "whoever names the way has it, as some files state the other size"


def no_images(values: dict[str, Any]) -> None:
    del values["images"]


def two_categories(values: dict[str, Any]) -> None:
    values["categories"].append({"id": 2, "name": "tail", "keypoints": ["tip", "base"]})


def corners(values: dict[str, Any]) -> None:
    for annotation in values["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x, y, x + w, y + h]


WRONG: list[tuple[str | Change, str]] = [
    ("{", r"heads\.json, line 1: not JSON: .*; expected COCO keypoints JSON"),
    ("[" * 100_000, r"heads\.json.*: not JSON"),
    ("", "not JSON"),
    ("[]", 'no list "images" in it, found list; expected COCO keypoints JSON'),
    ('{"shapes": []}', 'no list "images" in it, found keys shapes; expected COCO'),
    (no_images, 'no list "images" in it, found keys annotations, categories'),
    (two_categories, "categories head, tail have different keypoints; set category to one"),
    (corners, "annotation 8: its bbox ends outside its image .*, and all fit as corners"),
    (lambda v: v.update(annotations=[]), "no usable labelled instances"),
    (lambda v: v.update(annotations=3), 'no list "annotations"'),
    (
        lambda v: v["categories"][0].update(keypoints=2),
        r"heads\.json: category head: keypoints: expected a list of names, f",
    ),
    (
        lambda v: v["categories"][0].update(keypoints=["a", "b", "a"]),
        r"heads\.json: category head: skeleton: names appear twice: a",
    ),
    ('{"images": [' + "1" * 5000 + "]}", r"heads\.json: not JSON: .*; expected COCO"),
    (
        lambda v: [a.update(keypoints=[1, 2]) for a in v["annotations"]],
        "no usable labelled instances; 4 skipped: an",
    ),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_no_coco(tmp_path: Path, change: str | Change, message: str) -> None:
    values = coco_values()
    path = write_coco(tmp_path, values)
    if isinstance(change, str):
        path.write_text(change)
    else:
        change(values)
        path.write_text(json.dumps(values))
    with pytest.raises(KpnetError, match=message) as caught:
        COCO(path)
    assert "\n" not in str(caught.value)


def set_first(**changes: Any) -> Change:
    return lambda values: values["annotations"][0].update(changes)


NUMBERS = "keypoints: expected 9 numbers, x, y, v of 3 points"
BAD_SAMPLES: dict[str, tuple[Change, str]] = {
    "too few numbers": (set_first(keypoints=[1, 2, 2]), f"annotation 7: {NUMBERS}, found 3"),
    "no list": (set_first(keypoints="abc"), f"annotation 7: {NUMBERS}, found no list"),
    "words": (set_first(keypoints=["a"] * 9), "annotation 7: a point is nan, nan, nan; expected finite x, y and v of"),
    "NaN": (set_first(keypoints=[float("nan"), 1, 2] * 3), "annotation 7: a point is nan, 1, 2; expected finite"),
    "Inf": (set_first(keypoints=[1, 1, 2, 1, float("inf"), 1, 1, 1, 2]), "annotation 7: a point is 1, inf, 1"),
    "visibility": (set_first(keypoints=[1, 1, 3] * 3), "annotation 7: nose has visibility 3; expected 0, 1 or 2"),
    "visibilities that are no numbers": (
        set_first(keypoints=[1, 1, None] * 3),
        "annotation 7: nose has visibility -1; expected 0, 1 or 2",
    ),
    "unknown image": (set_first(image_id=999), "annotation 7: no image 999 in the file"),
    "list as image": (set_first(image_id=[1]), r"annotation 7: no image \[1\]"),
    "unknown category": (set_first(category_id=5), "annotation 7: no category 5 in the file"),
    "no category": (set_first(category_id=None), "annotation 7: no category None in the file"),
    "no mapping": (
        lambda v: v["annotations"].__setitem__(0, [1]),
        r"annotations\[0\]: expected a mapping, found \[1\]",
    ),
    "no file name": (lambda v: v["images"][2].pop("file_name"), "annotation 7: image 100 has no file_name"),
    "a number as file name": (lambda v: v["images"][2].update(file_name=3), "annotation 7: image 100 has no file_name"),
    "an endless file name": (
        lambda v: v["images"][2].update(file_name="a" * 10**6),
        "annotation 7: image 100: no file has a name of 1000000 characters",
    ),
    "missing picture": (lambda v: v["images"][2].update(file_name="z.png"), "annotation 7: no image .*z.png"),
    "endless picture": (
        lambda v: v["images"][2].update(width=10**400),
        "annotation 7: image 100 is infx60",
    ),
    "negative picture": (lambda v: v["images"][2].update(height=-5), "annotation 7: image 100 is 80x-5"),
    "endless point": (set_first(keypoints=[10**400, 1, 2] * 3), "annotation 7: a point is inf, 1, 2; expected finite"),
    "a NUL in a folder": (lambda v: v["images"][2].update(file_name="x\0y/a.png"), "annotation 7: no image"),
}


@pytest.mark.parametrize("name", BAD_SAMPLES)
def test_a_bad_sample_is_left_out_and_named_in_one_line(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    change, message = BAD_SAMPLES[name]
    values = coco_values()
    change(values)
    path = write_coco(tmp_path, values)
    both = name in (
        "missing picture",
        "endless picture",
        "negative picture",
        "a NUL in a folder",
        "no file name",
        "a number as file name",
        "an endless file name",
    )  # that picture has two
    with caplog.at_level(logging.WARNING):
        data = COCO(path)
    assert [data.image_name(i) for i in range(len(data))] == ["a.png", "b.png", "c.png"][both:]
    (record,) = caplog.records
    text = record.getMessage()
    assert f"heads.json: {2 if both else 1} skipped, {2 if both else 3} kept: " in text
    assert "\n" not in text
    assert len(data.skipped.messages) == 1 + both
    with pytest.raises(KpnetError, match=message):
        COCO(path, strict=True)
    assert data.skipped.messages[0] in text


BAD_BOXES: dict[str, tuple[Any, str]] = {
    "no area": ([3, 4, 10, 0], r"\[2.5, 3.5, 12.5, 3.5\] has no area"),
    "negative size": ([30, 40, -10, -10], "has no area"),
    "outside": ([90, 4, 10, 10], "lies outside the image of 80x60"),
    "three numbers": ([1, 2, 3], "is none; expected four edges in pixels"),
    "words": (["a", 1, 2, 3], "is none; expected four edges in pixels"),
    "a mapping": ({"x": 3}, "is none; expected four edges in pixels"),
    "NaN": ([float("nan"), 1, 5, 5], "is none; expected four edges in pixels"),
    "endless": ([10**400, 1, 5, 5], "is none; expected four edges in pixels"),
    "as far as numbers go": ([-1e308, -1e308, 1.7e308, 1.7e308], "is none; expected four edges in pixels"),
    "far": ([-1e9, -1e9, 2e9, 2e9], "is none; expected four edges in pixels"),
}


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("name", BAD_BOXES)
def test_a_box_that_is_none_costs_its_sample_only_where_boxes_are_needed(
    tmp_path: Path, name: str, sized: bool, caplog: pytest.LogCaptureFixture
) -> None:
    box, message = BAD_BOXES[name]
    values = coco_values()
    values["annotations"][0]["bbox"] = box
    if not sized:
        del values["images"][2]["width"]
    path = write_coco(tmp_path, values)
    with caplog.at_level(logging.WARNING):
        data = COCO(path)
    assert len(data) == 4
    assert data.box(0) is None
    assert data.box(1) is not None
    (note,) = data.skipped.notes
    assert re.search(f"annotation 7: its box .*{message}.*; the box is left out", note)
    assert note in caplog.text
    boxed = COCO(path, boxed_only=True)
    assert [boxed.image_name(i) for i in range(len(boxed))] == ["a.png", "b.png", "c.png"]
    with pytest.raises(KpnetError, match=message):
        COCO(path, strict=True)


@pytest.mark.parametrize("odd", [3, -1, 0.5, True, "x", None, 1e400])
def test_a_visibility_that_is_none_costs_its_point_alone(tmp_path: Path, odd: Any) -> None:
    values = coco_values()
    values["annotations"][0]["keypoints"][5] = odd
    data = COCO(write_coco(tmp_path, values))
    expected = [2, 1, 1] if odd is True else [2, 0, 1]
    assert data.visibility(0).tolist() == expected
    assert np.isfinite(data.keypoints(0)).all(-1).tolist() == [bool(v) for v in expected]
    assert len(data.skipped.notes) == (odd is not True)
    if odd is not True:
        with pytest.raises(KpnetError, match=r"annotation 7: left_ear has visibility .*; expected 0, 1 or 2"):
            COCO(write_coco(tmp_path / "b", values), strict=True)


def test_many_bad_samples_are_still_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = coco_values()
    values["annotations"] += [{**values["annotations"][0], "id": 50 + n, "keypoints": [1]} for n in range(30)]
    assert len(COCO(write_coco(tmp_path, values))) == 4
    (record,) = caplog.records
    assert "30 skipped, 4 kept: annotation 50: " in record.getMessage()
    assert "and 27 more (kpnet data check names them)" in record.getMessage()


def test_a_box_partly_outside_and_none_at_all_are_fine(tmp_path: Path) -> None:
    values = coco_values()
    values["annotations"][0]["bbox"] = [-5, -5, 40, 30]
    del values["annotations"][1]["bbox"]
    data = COCO(write_coco(tmp_path, values))
    assert data.box(0).tolist() == [-5.5, -5.5, 34.5, 24.5]  # type: ignore[union-attr]
    assert data.box(1) is None
    assert len(data) == 4


def test_one_category_of_several(tmp_path: Path) -> None:
    values = coco_values()
    two_categories(values)
    path = write_coco(tmp_path, values)
    assert len(COCO(path, category="head")) == 4
    with pytest.raises(KpnetError, match=r'no category "haed" \(did you mean "head"\?\); it has head, tail'):
        COCO(path, category="haed")


def test_a_category_without_names(tmp_path: Path) -> None:
    values = coco_values()
    values["categories"] = [{"id": 1, "name": "head"}]
    path = write_coco(tmp_path, values)
    assert COCO(path).skeleton.names == ("0", "1", "2")
    assert COCO(path, skeleton=Skeleton.load(["a", "b", "c"])).skeleton.names == ("a", "b", "c")


def test_a_file_of_boxes_says_so(tmp_path: Path) -> None:
    values = coco_values()
    for annotation in values["annotations"]:
        del annotation["keypoints"]
    message = "no usable labelled instances: of 4 annotations 4 have no keypoints, as in a file of boxes or masks"
    with pytest.raises(KpnetError, match=message):
        COCO(write_coco(tmp_path / "a", values))
    values = coco_values()
    for annotation in values["annotations"][:3]:
        annotation["iscrowd"] = 1
    values["annotations"][3]["keypoints"] = [0] * 9
    with pytest.raises(KpnetError, match="of 4 annotations 3 are crowds, 1 have no labelled point"):
        COCO(write_coco(tmp_path / "b", values))
    with pytest.raises(KpnetError, match="it has no annotations"):
        COCO(write_coco(tmp_path / "c", {**values, "annotations": []}))


def test_crowds_are_told_by_numbers_alone(tmp_path: Path) -> None:
    values = coco_values()
    for annotation, odd in zip(values["annotations"], ["0", "no", [1], None], strict=True):
        annotation["iscrowd"] = odd
    assert len(COCO(write_coco(tmp_path, values))) == 4


def points_of(data: COCO) -> list[tuple[str, list[list[float]]]]:
    return sorted((data.image_name(i), data.keypoints(i).tolist()) for i in range(len(data)))


IDS: dict[str, Callable[[int], tuple[Any, Any]]] = {
    "text and numbers": lambda n: (str(n), n),
    "numbers and text": lambda n: (n, str(n)),
    "decimals": lambda n: (float(n), float(n)),
    "decimals and numbers": lambda n: (float(n), n),
    "decimals that are not whole": lambda n: (n + 0.5, n + 0.5),
    "file names": lambda n: (f"{n}.png", f"{n}.png"),
    "truth": lambda n: (n == 101, n == 101),
}


@pytest.mark.parametrize("kind", IDS)
def test_ids_of_any_kind_name_the_same_images(tmp_path: Path, kind: str) -> None:
    expected = points_of(COCO(write_coco(tmp_path / "a")))
    values = coco_values()
    if kind == "truth":  # there are but two
        values["annotations"].pop()
        expected = [each for each in expected if each[0] != "c.png"]
    for image in values["images"]:
        image["id"] = IDS[kind](image["id"])[0]
    for annotation in values["annotations"]:
        annotation["image_id"] = IDS[kind](annotation["image_id"])[1]
        annotation["category_id"] = IDS[kind](annotation["category_id"])[1]
    values["categories"][0]["id"] = IDS[kind](1)[0]
    if kind == "truth":
        values["images"] = [image for image in values["images"] if image["file_name"] != "c.png"]
    assert str(points_of(COCO(write_coco(tmp_path / "b", values)))) == str(expected)


@pytest.mark.parametrize("odd", [None, [], {}, float("nan")])
def test_an_image_without_an_id_is_no_image(tmp_path: Path, odd: Any) -> None:
    values = coco_values()
    values["images"][2]["id"] = odd
    data = COCO(write_coco(tmp_path, values))
    assert [data.image_name(i) for i in range(len(data))] == ["b.png", "c.png"]
    assert data.skipped.messages == [f"annotation {n}: no image 100 in the file" for n in (7, 8)]


@pytest.mark.parametrize(
    "ids", [[1] * 4, [None] * 4, ["a", "b", "c", "d"], [0, 1, 2, 3], [True, 1, 1.0, "1"], [{}] * 4]
)
def test_ids_of_annotations_serve_messages_alone(tmp_path: Path, ids: list[Any]) -> None:
    expected = points_of(COCO(write_coco(tmp_path / "a")))
    values = coco_values()
    for annotation, own in zip(values["annotations"], ids, strict=True):
        annotation["id"] = own
    data = COCO(write_coco(tmp_path / "b", values), strict=True)
    assert str(points_of(data)) == str(expected)
    twice = "annotation ids appear more than once, such as annotation 1"
    assert [twice in note for note in data.skipped.notes] == ([True] if ids.count(1) > 1 else [])


def test_an_id_of_two_images_is_told_and_its_labels_are_not_guessed(tmp_path: Path) -> None:
    """Two files put together: both have an image 100."""
    values = coco_values()
    values["images"][0]["id"] = 100  # c.png, where a.png has it, too
    values["annotations"][3]["image_id"] = 100
    path = write_coco(tmp_path, values)
    data = COCO(path)
    assert [data.image_name(i) for i in range(len(data))] == ["b.png"]
    expected = "image id 100 stands for c.png and for a.png; give each an id of its own, and its annotations too"
    assert data.skipped.messages == [f"annotation {n}: {expected}" for n in (7, 8, 10)]
    with pytest.raises(KpnetError, match="annotation 7: image id 100 stands for"):
        COCO(path, strict=True)


@pytest.mark.parametrize("name", ["a.png", "./a.png", "x/../a.png"])
@pytest.mark.parametrize("sized", [True, False])
def test_an_entry_that_stands_twice_is_one_image(tmp_path: Path, name: str, sized: bool) -> None:
    values = coco_values()
    values["images"].append({**values["images"][2], "file_name": name})
    if not sized:
        del values["images"][-1]["width"]
    data = COCO(write_coco(tmp_path, values), strict=True)
    assert [data.image_name(i) for i in range(len(data))] == ["a.png", "a.png", "b.png", "c.png"]
    values["images"][-1]["width"] = 33
    with pytest.raises(KpnetError, match=r"image id 100 stands for a\.png (of 80x60 )?and for .*a\.png"):
        COCO(write_coco(tmp_path / "b", values), strict=True)


@pytest.mark.parametrize("name", ["a.png", "./a.png", ".\\a.png"])
def test_an_image_of_two_ids_is_one_image(tmp_path: Path, name: str) -> None:
    values = coco_values()
    values["images"].append({**values["images"][2], "id": 5, "file_name": name})
    values["annotations"][1]["image_id"] = 5
    data = COCO(write_coco(tmp_path, values), strict=True)
    assert [data.image_name(i) for i in range(len(data))] == ["a.png", "a.png", "b.png", "c.png"]
    assert [data.instance(i) for i in range(len(data))] == [0, 1, 0, 0]
    assert data.image_ids.tolist() == [100, 5, 101, 102]
    assert len(data.skipped.notes) == (name == "a.png")
    values["images"][-1] |= {"width": 33}
    data = COCO(write_coco(tmp_path / "b", values))
    assert [data.image_name(i) for i in range(len(data))] == ["a.png", "b.png", "c.png"]
    assert "annotation 8: " in data.skipped.messages[0]
    assert "it is 80x60 in one place of the file and 33x60 in another" in data.skipped.messages[0]


def test_an_id_of_two_categories_is_an_error(tmp_path: Path) -> None:
    values = coco_values()
    values["categories"].append({**values["categories"][0]})
    assert len(COCO(write_coco(tmp_path / "a", values))) == 4
    values["categories"][1]["name"] = "tail"
    with pytest.raises(KpnetError, match="category id 1 stands for head and for tail; give each an id of its own"):
        COCO(write_coco(tmp_path / "b", values))


@pytest.mark.parametrize("names", [True, False])
def test_one_annotation_for_each_point_is_told(tmp_path: Path, names: bool) -> None:
    values = coco_values()
    values["categories"] = [{"id": k, "name": n, "keypoints": [n] if names else []} for k, n in enumerate(NAMES)]
    values["annotations"] = [
        {**a, "category_id": k, "keypoints": a["keypoints"][3 * k : 3 * k + 3]}
        for a in values["annotations"]
        for k in range(3)
    ]
    path = write_coco(tmp_path, values)
    with pytest.raises(KpnetError, match="categories nose, left_ear, right_ear have one point each; expected one cat"):
        COCO(path)
    assert COCO(path, category="nose").keypoints(0).tolist() == [[20.25, 12.5]]


def large_subjects(folder: Path, at: tuple[float, float], *, corners: bool = False) -> Path:
    """Instances that reach beyond the right and lower edges, their points in the middle of their boxes."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    folder.mkdir()
    for number in range(12):
        cv2.imwrite(str(folder / f"{number}.png"), np.zeros((100, 100, 3), np.uint8))
        images.append({"id": number, "file_name": f"{number}.png", "height": 100, "width": 100})
        x, y = np.array(at) + rng.uniform(-3, 3, 2)
        w, h = np.maximum(rng.uniform(85, 97, 2), np.array(at) + 5)
        if corners:
            w, h = (100 - x) * 0.7, (100 - y) * 0.7
        points = np.array([x, y]) + np.array([w, h]) * rng.uniform(0.3, 0.7, (3, 2))
        box = [x, y, x + w, y + h] if corners else [x, y, w, h]
        annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": box,
                            "keypoints": [v for px, py in points for v in (px, py, 2)]})  # fmt: skip
    category = {"id": 1, "name": "head", "keypoints": list(NAMES)}
    path = folder / "a.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [category]}))
    return path


@pytest.mark.parametrize("at", [(8, 8), (20, 5), (5, 30), (25, 25), (35, 15)])
def test_boxes_of_large_subjects_are_no_corners(tmp_path: Path, at: tuple[float, float]) -> None:
    data = COCO(large_subjects(tmp_path / "a", at))
    assert len(data) == 12
    assert sum(bool((data.box(i)[2:] > 100).any()) for i in range(12)) > 2  # type: ignore[index]


@pytest.mark.parametrize("at", [(30, 30), (60, 40), (50, 10), (40, 70)])
def test_corners_are_told_from_boxes(tmp_path: Path, at: tuple[float, float]) -> None:
    with pytest.raises(KpnetError, match=r"as do .* of 12, and all fit as corners x0, y0, x1, y1; write x, y, x1 - x0"):
        COCO(large_subjects(tmp_path / "a", at, corners=True))


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from([10**30, -(10**400), 1e308, 2**31, 0.5, "", "0", "\udcff", "a\0b", "x" * 5000, "[/b]", [[[[]]]]])
    | st.floats()
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "image_id", "x"]), inner),
    max_leaves=5,
)


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a file."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from nodes(child, (*path, key))


def opened_or_told(path: Path) -> COCO | str:
    try:
        return COCO(path)
    except KpnetError as error:
        return str(error)


EVERY_NODE = list(nodes(coco_values()))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("junk")
    write_coco(folder)
    return folder


@settings(max_examples=150)
@given(st.sampled_from(EVERY_NODE), JUNK, st.booleans())
def test_whatever_stands_where_something_else_should_is_one_line_or_right(
    pictures: Path, node: tuple[Any, ...], junk: Any, remove: bool
) -> None:
    """Any value of a good file is replaced or removed: points lie where they did, or one line says what is wrong."""
    values: Any = coco_values()
    inner = values
    for key in node[:-1]:
        inner = inner[key]
    if remove:
        del inner[node[-1]]
    else:
        inner[node[-1]] = junk
    path = pictures / "heads.json"
    path.write_text(json.dumps(values))
    data = opened_or_told(path)
    if isinstance(data, str):
        assert "\n" not in data
        return
    true = {(name, *xy) for name, points in every_instance() for xy in points.tolist()}
    for index in range(len(data)):
        points = data.keypoints(index)[data.labels()[index]]
        assert len(points)
        assert len(data.visibility(index)) == len(data.skeleton)
        box = data.box(index)
        assert box is None or (np.isfinite(box).all() and (box[2:] > box[:2]).all())
        if "keypoints" not in node:
            assert {(data.image_name(index), *xy) for xy in points.tolist()} <= true
    assert "\n" not in "".join([*data.skipped.messages, *data.skipped.notes])


def test_normalized_boxes_are_scaled_with_their_points(tmp_path: Path) -> None:
    path = write_coco(tmp_path)
    usual = COCO(path)
    values = json.loads(path.read_text())
    sizes = {image["id"]: (image["width"], image["height"]) for image in values["images"]}
    for annotation in values["annotations"]:
        size = np.array(sizes[annotation["image_id"]])
        annotation["bbox"] = (np.array(annotation["bbox"]) / np.tile(size, 2)).tolist()
        triples = np.reshape(annotation["keypoints"], (-1, 3)) / [*size, 1]
        annotation["keypoints"] = triples.ravel().tolist()
    path.write_text(json.dumps(values))
    found = COCO(path, normalized=True)
    assert any(usual.box(index) is not None for index in range(len(usual)))
    for index in range(len(usual)):
        np.testing.assert_allclose(found.keypoints(index), usual.keypoints(index), atol=1e-9)
        if (box := usual.box(index)) is not None:
            np.testing.assert_allclose(found.box(index), box, atol=1e-9)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 2])
def test_a_box_around_points_on_a_line_has_an_area(count: int) -> None:
    xy = np.array([[4.0, 7.0], [6.0, 7.0]])[:count]
    values = annotation_values(xy, np.full(count, 2), None, np.nan)
    width = 2 * count - 1
    assert (values["bbox"], values["area"]) == ([4, 7, width, 1], width)


def test_an_absent_point_is_three_zeros() -> None:
    """Whatever stands at its place, as in COCO's own files."""
    xy = np.array([[np.nan, np.nan], [4.0, 7.0], [5.0, 8.0]])
    values = annotation_values(xy, np.array([0, 2, 0]), None, np.nan)
    assert values["keypoints"] == [0, 0, 0, 4, 7, 2, 0, 0, 0]


def test_proposed_points_have_a_weight_of_their_own(tmp_path: Path) -> None:
    values = coco_values()
    values["annotations"][0]["kpnet"] = {"sources": ["person", "proposed", None]}
    data = COCO(write_coco(tmp_path, values), proposed_weight=0.5)
    assert data.point_weights(0).tolist() == [1, 0.5, 1]
    assert data.point_weights(1).tolist() == [1, 1, 1]
    without = COCO(tmp_path / "heads.json", proposed_weight=0)
    assert not without.labels()[0, 1]
    assert without.labels()[0, 0]
    values["annotations"][0]["kpnet"] = {"sources": ["proposed"] * 3}
    less = COCO(write_coco(tmp_path, values), proposed_weight=0)
    assert (len(less), less.image_ids.tolist()) == (len(data) - 1, data.image_ids[1:].tolist())
    with pytest.raises(KpnetError, match="proposed_weight: expected a number of at least 0, found nan"):
        COCO(tmp_path / "heads.json", proposed_weight=float("nan"))


@pytest.mark.parametrize("odd", ["person", ["person"], ["person", "robot", None], [{}, [], 3]])
def test_sources_that_are_none_are_told(tmp_path: Path, odd: Any) -> None:
    values = coco_values()
    values["annotations"][0]["kpnet"] = {"sources": odd}
    data = COCO(write_coco(tmp_path, values), proposed_weight=0)
    assert [note.split(": ", 1)[1] for note in data.skipped.notes] == [
        "kpnet: sources: expected a list of 3 words, person, proposed or null; they are not used"
    ]
    assert data.labels()[0].all()


@pytest.mark.parametrize("size", [(0, 30), (30, 0), (30, 30)])
def test_a_crowd_without_an_area_is_nowhere(size: tuple[int, int], tmp_path: Path) -> None:
    """Its box is 10 from the left and 20 from the top."""
    values = coco_values()
    values["annotations"][0] |= {"iscrowd": 1, "bbox": [10, 20, *size]}
    assert len(COCO(write_coco(tmp_path, values)).ignored.boxes) == int(all(size))
