"""YOLO's pose labels, written here from points in pixels as its converters do: divided by width and height."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.format_files import NAMES, PICTURES, brightest, every_instance, write_pictures

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data import YOLO
from kpnet.data.build import open_dataset
from kpnet.data.formats.detect import detect_format

LAYOUTS = {
    "ultralytics": ("images/train", "labels/train"),
    "roboflow": ("train/images", "train/labels"),
    "darknet": ("", ""),
}
FIRST = "0 0.5 0.5 0.5 0.5 0.5 0.5 2 0.5 0.5 2 0.5 0.5 2"


def write(folder: Path, layout: str = "ultralytics", *, numbers: int = 3, more: str = "") -> Path:
    images, labels = (folder / each for each in LAYOUTS[layout])
    write_pictures(images)
    labels.mkdir(parents=True, exist_ok=True)
    for name, (height, width), instances in PICTURES:
        lines = []
        for xy in np.array(instances):
            low, high = np.nanmin(xy, 0) - 3 + 0.5, np.nanmax(xy, 0) + 3 + 0.5  # edges; an image begins at 0
            row = [*((low + high) / 2 / (width, height)), *((high - low) / (width, height))]
            for k, (x, y) in enumerate(xy.tolist()):
                absent = np.isnan(x)
                level = [0 if absent else 1 if k == 2 else 2] if numbers == 3 else []
                row += [
                    *((0, 0) if absent and numbers == 3 else (-1, -1) if absent else (x / width, y / height)),
                    *level,
                ]
            lines.append(" ".join(["1", *(f"{value:.8f}" for value in row)]))
        (labels / name).with_suffix(".txt").write_text("\n".join(lines) + "\n")
    text = f"path: .\nnames: {{0: tail, 1: head}}\nkpt_shape: [3, {numbers}]\nflip_idx: [0, 2, 1]\n{more}"
    (folder / "data.yaml").write_text(text)
    return folder


@pytest.mark.parametrize("numbers", [2, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_points_lie_on_their_dots(tmp_path: Path, layout: str, numbers: int) -> None:
    folder = write(tmp_path, layout, numbers=numbers, more="kpt_names: {0: [a, b, c], 1: [a, b, c]}\n")
    assert detect_format(folder) == (folder, "yolo")
    data = open_dataset(folder)
    assert isinstance(data, YOLO)
    assert data.skeleton.names == ("a", "b", "c")
    assert len(data) == 4
    for index, (name, xy) in enumerate(every_instance()):
        image, points = data.read(index)
        assert data.image_name(index).endswith(name)
        np.testing.assert_allclose(points, xy, atol=1e-4)
        for point in points[np.isfinite(points).all(-1)]:
            assert np.abs(brightest(image, point) - point).max() < 0.1
        box = data.box(index)
        assert box is not None
        np.testing.assert_allclose(box, [*(np.nanmin(xy, 0) - 3), *(np.nanmax(xy, 0) + 3)], atol=1e-4)
        seen = np.where(np.isfinite(xy).all(-1), [2, 2, 1] if numbers == 3 else 2, 0)
        assert data.visibility(index).tolist() == seen.tolist()


def test_names_and_pairs(tmp_path: Path) -> None:
    folder = write(tmp_path)
    plain = YOLO(folder).skeleton
    assert (plain.names, plain.pairs) == (("0", "1", "2"), (("1", "2"),))
    assert YOLO(folder, skeleton=Skeleton.load(list(NAMES))).skeleton.names == NAMES
    flip = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
    (folder / "data.yaml").write_text(f"kpt_shape: [17, 3]\nflip_idx: {flip}\n")
    for label in (folder / "labels" / "train").iterdir():
        label.write_text("0 0.5 0.5 0.5 0.5" + " 0.5 0.5 2" * 17)
    assert YOLO(folder).skeleton == Skeleton.load("coco17")


def test_a_part_of_the_data_and_one_class(tmp_path: Path) -> None:
    folder = write(tmp_path)
    part = folder / "images" / "train"
    assert detect_format(part) == (part, "yolo")
    assert len(YOLO(part)) == len(YOLO(folder / "data.yaml")) == len(YOLO(folder, category="head")) == 4
    with pytest.raises(KpnetError, match="no usable labelled instances"):
        YOLO(folder, category="tail")
    with pytest.raises(KpnetError, match=r'no class "haed" \(did you mean "head"\?\); there are: tail, head'):
        YOLO(folder, category="haed")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 0.5 0.5 0.5 0.5", "numbers: expected 14, found 5; these are boxes without points"),
        (f"{FIRST} 1", "numbers: expected 14, found 15"),
        (FIRST.replace("2", "two", 1), '"two", expected a number'),
        (FIRST.replace("0.5", "nan", 1), '"nan", expected a number'),
        (FIRST.replace("0.5", "320", 1), "its box is 320, 0.5, 0.5, 0.5, expected parts of the image's size"),
    ],
)
def test_a_wrong_line_is_skipped_and_named(tmp_path: Path, line: str, reason: str) -> None:
    label = write(tmp_path) / "labels" / "train" / "b.txt"
    label.write_text(f"\n{line}\n")
    data = YOLO(tmp_path)
    assert len(data) == 3
    (message,) = data.skipped.messages
    assert reason in message
    assert "b.txt, line 2" in message
    with pytest.raises(KpnetError, match=r"b\.txt, line 2"):
        YOLO(tmp_path, strict=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a]", r"kpt_shape: expected \[points, 2 or 3\], found nothing"),
        ("kpt_shape: [3]", r"kpt_shape: expected .* found \[3\]"),
        ("kpt_shape: [3, 4]", "kpt_shape: expected"),
        ("kpt_shape: [1000000000, 3]", "kpt_shape: expected"),
        ("kpt_shape: [3, 3]\nflip_idx: [0, 1]", "flip_idx: expected for each of the 3 points"),
        ("kpt_shape: [3, 3]\nflip_idx: [1, 2, 0]", "flip_idx: expected"),
        ("kpt_shape: [3, 3]\nkpt_names: {0: [a]}", "kpt_names: expected 3 names"),
        ("kpt_shape: [3, 3", "not YAML"),
        ("- 1", "expected a mapping, found list"),
    ],
)
def test_a_wrong_yaml(tmp_path: Path, text: str, message: str) -> None:
    (write(tmp_path) / "data.yaml").write_text(text)
    with pytest.raises(KpnetError, match=message) as caught:
        YOLO(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "data.yaml"))


def test_labels_are_not_scaled_twice(tmp_path: Path) -> None:
    with pytest.raises(KpnetError, match="normalized: YOLO's labels are parts of the image anyway; leave"):
        YOLO(write(tmp_path), normalized=True)


def test_an_empty_text_file_is_an_image_with_nothing_on_it(tmp_path: Path) -> None:
    folder = write(tmp_path)
    labels = folder / "labels" / "train"
    (labels / "b.txt").write_text("\n")
    (labels / "c.txt").write_text("0 0.5 0.5\n")  # a line that cannot be used
    data = YOLO(folder)
    assert len(data) == 2
    found = {each.name: (each.read is not None, len(each.ignored), each.partial) for each in data.surroundings()}
    assert found == {"images/train/b.png": (True, 0, False), "images/train/c.png": (True, 0, True)}
    first = data.surroundings()[0]
    assert first.read is not None
    assert first.read().shape == (48, 64, 3)
