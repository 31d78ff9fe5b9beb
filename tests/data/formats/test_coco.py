"""COCO keypoints JSON: what it says, and what is wrong with one."""

from __future__ import annotations

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO as Published
from support.format_files import NAMES, coco_values, write_coco
from support.paths import SHARED
from support.pixels import read_bgr

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data import COCO

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


@pytest.mark.parametrize("edges", [[[1.0, 2.0]], [[[1], [2]]], [[1, 9]], [[1]], [True], [[True, 2]], 3, "ab", {"a": 1}])
def test_edges_that_are_none_are_not_drawn(tmp_path: Path, edges: Any) -> None:
    values = coco_values()
    values["categories"][0]["skeleton"] = edges
    data = COCO(write_coco(tmp_path, values))
    assert len(data) == 4
    assert data.skeleton.edges == ()
    assert data.skipped.messages == ["the category's skeleton: expected pairs of numbers from 1 to 3; not drawn"]


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
    with pytest.raises(
        KpnetError, match=r"heads\.json: no usable labelled instances; 4 skipped: annotation 7: no image"
    ):
        COCO(path)
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
    right = {"stored": (60, 80), "shown": (80, 60)}.get(said)
    if right is None or (exif is not None and right != ((80, 60) if exif else (60, 80))):
        with pytest.raises(KpnetError, match=r"a\.png: .* pixels, and .*heads\.json says .*: were the images resized"):
            data.read(0)
    else:
        assert data.read(0)[0].shape[:2] == right


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


BAD_SAMPLES: dict[str, tuple[Change, str]] = {
    "too few numbers": (set_first(keypoints=[1, 2, 2]), "annotation 7: 3 numbers as keypoints, expected 9"),
    "no list": (set_first(keypoints="abc"), "annotation 7: no list of numbers as keypoints, expected 9"),
    "words": (set_first(keypoints=["a"] * 9), "annotation 7: a point is nan, nan, nan; expected finite x, y and v of"),
    "NaN": (set_first(keypoints=[float("nan"), 1, 2] * 3), "annotation 7: a point is nan, 1, 2; expected finite"),
    "Inf": (set_first(keypoints=[1, 1, 2, 1, float("inf"), 1, 1, 1, 2]), "annotation 7: a point is 1, inf, 1"),
    "visibility": (set_first(keypoints=[1, 1, 3] * 3), "annotation 7: a point is 1, 1, 3; .* v of 0, 1 or 2"),
    "unknown image": (set_first(image_id=999), "annotation 7: no image 999 with a file_name in the file"),
    "list as image": (set_first(image_id=[1]), r"annotation 7: no image \[1\]"),
    "no id": (set_first(id=None), "annotation None: expected a whole number as id"),
    "missing picture": (lambda v: v["images"][2].update(file_name="z.png"), "annotation 7: no image .*z.png"),
    "no area": (set_first(bbox=[3, 4, 10, 0]), r"annotation 7: its box \[2.5, 3.5, 12.5, 3.5\] has no area"),
    "negative size": (set_first(bbox=[30, 40, -10, -10]), "annotation 7: its box .* has no area"),
    "outside": (set_first(bbox=[90, 4, 10, 10]), "annotation 7: its box .* lies outside the image of 80x60"),
    "endless picture": (
        lambda v: v["images"][2].update(width=10**400),
        "annotation 7: image 100 is infx60",
    ),
    "negative picture": (lambda v: v["images"][2].update(height=-5), "annotation 7: image 100 is 80x-5"),
    "endless point": (set_first(keypoints=[10**400, 1, 2] * 3), "annotation 7: a point is inf, 1, 2; expected finite"),
    "endless id and no area": (
        set_first(id=10**20, bbox=[3, 4, 10, 0]),
        f"annotation {10**20}: its box .* has no area",
    ),
    "outside, no size": (
        lambda v: (v["images"][2].pop("width"), set_first(bbox=[90, 4, 10, 10])(v)),
        "annotation 7: its box .* lies outside the image of 80x60",
    ),
    "a NUL in a folder": (lambda v: v["images"][2].update(file_name="x\0y/a.png"), "annotation 7: no image"),
    "three numbers": (set_first(bbox=[1, 2, 3]), "annotation 7: its box .* has no area"),
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


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "image_id", "x"]), inner),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["images", "annotations", "categories"]),
    st.integers(0, 3),
    st.sampled_from(
        [
            "id",
            "image_id",
            "category_id",
            "keypoints",
            "bbox",
            "area",
            "iscrowd",
            "file_name",
            "height",
            "width",
            "name",
            "skeleton",
        ]
    ),
    JUNK,
)
def test_whatever_stands_where_something_else_should_is_one_line(
    tmp_path_factory: pytest.TempPathFactory, section: str, row: int, key: str, junk: Any
) -> None:
    values = coco_values()
    entries = values[section]
    entries[row % len(entries)][key] = junk
    path = write_coco(tmp_path_factory.mktemp("junk"), values)
    with contextlib.suppress(KpnetError):
        data = COCO(path)
        assert all(np.isfinite(data.keypoints(i)).any() for i in range(len(data)))
        assert "\n" not in "".join(data.skipped.messages)
