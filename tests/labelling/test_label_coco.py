"""Labels as COCO JSON: what pycocotools reads, what survives the way there and back, and which ids stay."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data import COCO
from kpnet.labelling.label_rows import Instance, Point
from kpnet.labelling.labels import LabelFile, is_label_file, read_labels
from kpnet.labelling.session import Session
from kpnet.labelling.source import open_source

SKELETON = Skeleton(("nose", "tail", "paw"), edges=(("nose", "tail"),))


def point(x: float, y: float, level: int = 2, source: str = "person") -> Point:
    return Point(x, y, level, source)


ABSENT = Point(None, None, 0, "person")
ONE = Instance((point(1.5, 2.25), point(3, 4.1234, 1, "proposed"), ABSENT))
TWO = Instance((None, point(-0.5, 0), None), (0.0, 1.1, 7.5, 8.2003))
NONE_THERE = Instance((ABSENT, Point(None, None, 0, "proposed"), None))
BOXED = Instance((None, None, None), (2.0, 3.0, 4.5, 6.0))


@pytest.fixture
def labels(tmp_path: Path) -> LabelFile:
    for name, size in (("a.png", (9, 10)), ("b.png", (12, 8))):
        cv2.imwrite(str(tmp_path / name), np.zeros(size, np.uint8))
    return LabelFile(tmp_path / "labels.json", ["a.png", "b.png"], SKELETON)


def annotations_of(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["annotations"]
    return found


def test_pycocotools_reads_it(labels: LabelFile) -> None:
    pycoco = pytest.importorskip("pycocotools.coco")
    labels.put(1, (ONE, TWO, BOXED), 0)
    found = pycoco.COCO(str(labels.path))
    assert found.loadImgs(found.getImgIds()) == [{"id": 1, "file_name": "b.png", "width": 8, "height": 12}]
    (category,) = found.loadCats(found.getCatIds())
    assert (category["keypoints"], category["skeleton"]) == (["nose", "tail", "paw"], [[1, 2]])
    first, second, third = found.loadAnns(found.getAnnIds(imgIds=[1]))
    assert first["keypoints"] == [1.5, 2.25, 2, 3, 4.1234, 1, 0, 0, 0]
    assert [each["num_keypoints"] for each in (first, second, third)] == [2, 1, 0]
    assert second["bbox"] == pytest.approx([0.5, 1.6, 7.5, 7.1003])  # COCO's boxes begin at the pixel's corner
    assert second["area"] == pytest.approx(7.5 * 7.1003)
    assert first["bbox"] == pytest.approx([1.5, 2.25, 2.5, 2.8734])  # around the two points' pixels


def test_everything_survives_csv_to_json_to_csv_through_the_page(labels: LabelFile, tmp_path: Path) -> None:
    table = LabelFile(tmp_path / "labels.csv", labels.images, SKELETON)
    table.put(0, (ONE, TWO, NONE_THERE), 0)
    table.put(1, (BOXED,), 1)
    for start, target in (("labels.csv", "there.json"), ("there.json", "again.json"), ("again.json", "back.csv")):
        session = Session(open_source(tmp_path / start), out=tmp_path / target)
        for index in range(2):
            session.put(index, json.loads(json.dumps(session.instances(index)["instances"])), index)
        session.close()
    assert (tmp_path / "back.csv").read_bytes() == table.path.read_bytes()
    assert read_labels(tmp_path / "again.json")[1] == {"a.png": (ONE, TWO, NONE_THERE), "b.png": (BOXED,)}


def test_edges_and_a_file_that_is_labelled_further(labels: LabelFile) -> None:
    labels.put(0, (ONE,), 0)
    session = Session(open_source(labels.path))
    assert session.labels.path == labels.path
    assert session.labels.skeleton is not None
    assert session.labels.skeleton.edges == SKELETON.edges
    session.close()


def test_images_keep_their_ids_and_annotations_are_numbered(labels: LabelFile) -> None:
    labels.put(1, (ONE, TWO), 0)
    labels.put(0, (BOXED,), 1)

    def ids() -> list[tuple[int, int, int]]:
        return [(a["image_id"], a["id"], int(a["num_keypoints"])) for a in annotations_of(labels.path)]

    assert ids() == [(2, 1, 0), (1, 2, 2), (1, 3, 1)]
    labels.put(1, (TWO,), 2)
    labels.put(0, (), 3)
    assert ids() == [(1, 1, 1)]
    again = LabelFile(labels.path, ["b.png"], Skeleton(("paw", "nose", "tail")))  # the other order of points
    again.put(0, (Instance((None, point(7, 7), None)),), 0)
    assert [a["keypoints"][3:6] for a in annotations_of(labels.path)] == [[7, 7, 2]]


def test_what_another_program_has_added_stays(labels: LabelFile) -> None:
    labels.put(0, (ONE, TWO), 0)
    values = json.loads(labels.path.read_text())
    values["info"]["contributor"] = "Anna"
    values["categories"][0] |= {"id": 3, "name": "mouse", "supercategory": "animal"}
    values["images"] = [{"id": 9, "file_name": "z.png", "width": 5}, values["images"][0]]
    for each in values["annotations"]:
        each["category_id"] = 3
    values["annotations"][0] |= {"bbox": [0.5, 0.5, 8, 9], "area": 72}  # a box that was drawn there
    labels.path.write_text(json.dumps(values))
    again = LabelFile(labels.path, labels.images)
    assert again.instances(0) == (Instance(ONE.points, (0.0, 0.0, 8.0, 9.0)), TWO)
    again.put(1, (TWO,), 0)
    written = json.loads(labels.path.read_text())
    assert (written["info"], written["categories"]) == (values["info"], values["categories"])
    assert written["images"] == [*values["images"], {"id": 10, "file_name": "b.png", "width": 8, "height": 12}]
    assert written["annotations"][0]["bbox"] == [0.5, 0.5, 8, 9]
    again.set_skeleton(Skeleton((*SKELETON.names, "ear")))
    (category,) = json.loads(labels.path.read_text())["categories"]
    assert (category["id"], category["name"], category["keypoints"][3:]) == (3, "mouse", ["ear"])
    assert [COCO(labels.path).image_name(index) for index in range(3)] == ["a.png", "a.png", "b.png"]


def test_a_file_that_was_saved_with_its_mark_at_the_end_goes_on(labels: LabelFile) -> None:
    labels.put(0, (ONE,), 0)
    values = json.loads(labels.path.read_text())
    values["images"].append({"id": 2, "file_name": "x" * 70_000})
    labels.path.write_text(json.dumps(dict(reversed(values.items()))))
    assert is_label_file(labels.path)
    assert LabelFile(labels.path, labels.images).instances(0) == (ONE,)


def test_labels_are_of_the_upright_image_whatever_its_shape(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 3  # upside down: the size is the same both ways
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8, :8] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=turned)
    labels = LabelFile(tmp_path / "labels.json", ["a.png"], SKELETON)
    labels.put(0, (Instance((point(12, 12), None, None)),), 0)
    assert COCO(labels.path).image(0)[12, 12].tolist() == [255] * 3
    assert COCO(labels.path, exif=False).image(0)[12, 12].tolist() == [0] * 3


def change(**values: Any) -> Callable[[dict[str, Any]], None]:
    def apply(data: dict[str, Any]) -> None:
        data["annotations"][0].update(values)

    return apply


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (
            change(segmentation=[]),
            r"annotations\[0\]: has segmentation, which kpnet label would not keep; give another",
        ),
        (change(id=2), r"annotations\[1\]: id: expected a whole number of its own, found 2"),
        (change(image_id=7), "annotation 1: no image 7 in the file"),
        (change(keypoints=[1, 2, 2]), "annotation 1: keypoints: expected 9 numbers, x, y, v of 3 points, found 3"),
        (change(keypoints=["x", 2, 2] * 3), "annotation 1: point: expected null or x, y"),
        (change(kpnet={"sources": ["robot"] * 3}), "annotation 1: point: expected null or x, y"),
        (change(kpnet={"sources": []}), r"annotation 1: kpnet: sources: expected a list of 3 words, found \[\]"),
        (change(kpnet={"has_box": True}, bbox=[1, "b"]), "annotation 1: bbox: expected four numbers, found"),
        (change(kpnet={"has_box": True}, bbox=[1, 1, 0, 0]), "annotation 1: box: expected x0 < x1"),
        (change(kpnet={"by": "Anna"}), "annotation 1: kpnet: has by, which kpnet label would not keep"),
        (change(iscrowd=1), "annotation 1: iscrowd: expected 0, found 1, which kpnet label would not keep"),
        (change(category_id=2), "annotation 1: category_id: expected 1, found 2"),
        (change(area=70), "annotation 1: area: expected that of the bbox, found 70"),
        (change(keypoints=[10**400, 2, 2] * 3), "annotation 1: point: expected null or x, y"),
        (change(bbox=[10**400, 2, 2, 2]), "annotation 1: bbox: expected four numbers, found"),
        (lambda data: data["images"][0].update(file_name="\ud800.png"), r"images\[0\]: file_name: expected a name"),
        (lambda data: data["categories"].append({"id": 2}), "categories: expected one with names of keypoints"),
        (
            lambda data: data["images"].append({"id": 2, "file_name": "a.png"}),
            r"images\[1\]: file_name: expected a name",
        ),
        (lambda data: data.update(images={}), r"images: expected a list, found \{\}"),
        (lambda data: data.update(licenses=[]), "has licenses, which kpnet label would not keep"),
    ],
)
def test_what_another_program_has_changed_is_named(
    labels: LabelFile, damage: Callable[[dict[str, Any]], None], why: str
) -> None:
    labels.put(0, (ONE, TWO), 0)
    values = json.loads(labels.path.read_text())
    damage(values)
    labels.path.write_text(json.dumps(values))
    before = labels.path.read_bytes()
    with pytest.raises(KpnetError, match=rf"labels\.json: {why}"):
        LabelFile(labels.path, labels.images)
    assert labels.path.read_bytes() == before


def test_a_file_cut_short_is_told(labels: LabelFile) -> None:
    labels.put(0, (ONE,), 0)
    labels.path.write_text(labels.path.read_text()[:-30])
    with pytest.raises(KpnetError, match=r"labels\.json, line \d+: not JSON: .*expected the labels of kpnet label"):
        read_labels(labels.path)
