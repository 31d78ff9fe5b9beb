"""Whatever stands in a file of labels, a format gives samples or one line of a `KpnetError`."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.format_files import dlc_lines, write_coco, write_dlc, write_points_csv, write_pts
from support.mutations import places

from kpnet.core.errors import KpnetError
from kpnet.data import COCO
from kpnet.data.build import open_dataset
from kpnet.data.convert import convert

PIECES = [
    *("", "-1", "1e308", "nan", "inf", "0x1", "1,5", "1_0", "é", "\x00", "\udcff", '"', '"a', "image", "x", "y"),
    *("a.png", "../a.png", "/", "\\", "{", "}", ":", "n_points: 9", "[", "&a [*a]", "kpt_shape: [2, 3]", "- b"),
    *("9" * 400, "a" * 5000, "scorer", "coords", "bodyparts", "individuals", "\t", ";", "\r", "\ufeff", "٣", "true"),
]
YOLO_LINES = ["0 0.5 0.5 0.5 0.5 0.25 0.5 2 0.75 0.5 1 0.5 0.5 0", "0 0.5 0.5 0.5 0.5 0.25 0.5 2 0.75 0.5 1 0.5 0.5 0"]


def points_csv(folder: Path) -> Path:
    return write_points_csv(folder)


def pts(folder: Path) -> Path:
    return write_pts(folder) / "a.pts"


def dlc_table(folder: Path) -> Path:
    return write_dlc(folder) / "labeled-data" / "v1" / "CollectedData_me.csv"


def dlc_config(folder: Path) -> Path:
    return write_dlc(folder) / "config.yaml"


def single_table(folder: Path) -> Path:
    (write_dlc(folder) / "config.yaml").unlink()
    (folder / "labeled-data" / "v1" / "CollectedData_me.csv").unlink()
    (folder / "a.csv").write_text("\n".join(dlc_lines("v1")))
    return folder / "a.csv"


def kaggle(folder: Path) -> Path:
    folder.mkdir()
    (folder / "a.csv").write_text("ImageId,eye_x,eye_y,Image\n7,1.5,2,0 1 2 3 4 5 6 7 255\n8,1,,9 9 9 9 9 9 9 9 9\n")
    return folder / "a.csv"


def long_table(folder: Path) -> Path:
    path = write_points_csv(folder)
    path.write_text("image,name,x,y\na.png,nose,1,2\na.png,tail,3,4\nb.png,nose,5,6\n")
    return path


def yolo(folder: Path) -> Path:
    write_points_csv(folder)
    (folder / "points.csv").unlink()
    (folder / "labels").mkdir()
    for name in "abc":
        (folder / "labels" / f"{name}.txt").write_text("\n".join(YOLO_LINES))
    (folder / "data.yaml").write_text("kpt_shape: [3, 3]\nflip_idx: [0, 2, 1]\nnames: [head]\n")
    return folder / "labels" / "a.txt"


def yolo_config(folder: Path) -> Path:
    return yolo(folder).parents[1] / "data.yaml"


def written_as(form: str, name: str) -> Callable[[Path], Path]:
    """A file of labels as kpnet writes it, and where it is; the formats' own tests compare it with the tools' files."""

    def write(folder: Path) -> Path:
        convert(COCO(write_coco(folder.with_name("coco"))), folder, form)
        return folder / name

    return write


labelme, label_studio, cvat = (
    written_as(form, name)
    for form, name in (("labelme", "a.json"), ("label_studio", "tasks.json"), ("cvat", "annotations.xml"))
)

FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "points_csv": (points_csv, "points_csv"),
    "long table": (long_table, "points_csv"),
    "kaggle_csv": (kaggle, "kaggle_csv"),
    "pts": (pts, "pts"),
    "deeplabcut's table": (dlc_table, "deeplabcut"),
    "deeplabcut's config": (dlc_config, "deeplabcut"),
    "deeplabcut's single table": (single_table, "deeplabcut"),
    "yolo's labels": (yolo, "yolo"),
    "yolo's config": (yolo_config, "yolo"),
    "labelme": (labelme, "labelme"),
    "label_studio": (label_studio, "label_studio"),
    "cvat": (cvat, "cvat"),
}


def check(path: Path, form: str | None) -> None:
    try:
        data = open_dataset(path, form)
    except KpnetError:
        return
    assert len(data)
    for index in range(len(data)):
        image, xy = data.read(index)
        assert image.dtype == np.uint8
        assert xy.shape == (len(data.skeleton), 2)
        assert not np.isinf(xy).any()


@pytest.fixture(scope="module", params=FILES)
def damaged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A file of labels, what to open to read it, and its format."""
    write, form = FILES[request.param]
    folder = tmp_path_factory.mktemp("damaged") / "data"
    path = write(folder)
    opened = folder if form in ("pts", "yolo") or path.name.endswith(("me.csv", "config.yaml")) else path
    return path, opened, form


UNHURRIED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
EDITS = st.lists(
    st.tuples(st.sampled_from(["cell", "line", "cut", "twice", "bytes"]), st.integers(0, 500), st.sampled_from(PIECES)),
    min_size=1,
    max_size=4,
)


def edit(text: str, kind: str, where: int, piece: str) -> str:
    if kind == "cut":
        return text[: where % (len(text) + 1)]
    lines = text.split("\n")
    number = where % len(lines)
    if kind == "line":
        lines[number] = piece
    elif kind == "twice":
        lines.insert(number, lines[number])
    elif kind == "cell":
        separator = "," if "," in lines[number] else " "
        cells = lines[number].split(separator)
        cells[where % 7 % len(cells)] = piece
        lines[number] = separator.join(cells)
    else:
        lines[number] += piece
    return "\n".join(lines)


@settings(max_examples=40, suppress_health_check=UNHURRIED, derandomize=True)
@given(edits=EDITS, encoding=st.sampled_from(["utf-8", "utf-8", "cp1252", "utf-16"]))
def test_damaged_text(damaged: tuple[Path, Path, str], edits: list[tuple[str, int, str]], encoding: str) -> None:
    path, opened, form = damaged
    original = path.read_bytes()
    text = original.decode()
    for kind, where, piece in edits:
        text = edit(text, kind, where, piece)
    try:
        path.write_bytes(text.encode(encoding, errors="surrogateescape" if encoding == "utf-8" else "replace"))
        check(opened, form)
        check(opened, None)
    finally:
        path.write_bytes(original)


VALUES: list[Any] = [
    np.zeros((2, 8, 9), np.uint8), np.zeros((2, 8, 9, 3), np.uint8), np.zeros((2, 8, 9, 2), np.uint8),
    np.ones((2, 3, 2)), np.full((2, 3, 2), np.inf), np.ones((2, 3, 2), bool), np.ones((2, 3, 2), complex),
    np.array(["a", "b", "c"]), np.array(["a", "a", "c"]),
    np.array(["a\x00b", "\udcff"]), np.array(3), np.zeros(0), np.array([b"a", b"b"]),
    np.array(["2020-01-01"] * 2, "datetime64[D]"), np.full((2, 4), np.nan), np.array([[0, 0, 5, 5], [9, 9, 1, 1.0]]),
    np.full((2, 3), 7), np.full((2, 3), np.nan), np.zeros((2, 3), np.int8), np.zeros((2, 3, 2), [("x", "f4")]),
]  # fmt: skip


@settings(max_examples=80, derandomize=True)
@given(
    arrays=st.fixed_dictionaries(
        {"images": st.sampled_from(VALUES[:3]), "keypoints": st.sampled_from(VALUES[3:7])},
        optional={key: st.sampled_from(VALUES) for key in ("names", "visibility", "boxes", "image_names")},
    )
)
def test_arrays_of_any_kind(tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, Any]) -> None:
    folder = tmp_path_factory.mktemp("npz")
    np.savez(folder / "a.npz", **arrays)
    check(folder / "a.npz", None)
    shutil.rmtree(folder)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(PIECES) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "value", "x"]), inner, max_size=2)
    ),
    max_leaves=5,
)


@pytest.fixture(scope="module", params=["labelme", "label_studio"])
def json_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FILES[request.param][0](tmp_path_factory.mktemp("json") / "data")


@settings(
    max_examples=150,
    suppress_health_check=UNHURRIED,
    derandomize=True,
)
@given(where=st.integers(0, 10**6), value=ANY_JSON)
def test_any_value_at_any_place_of_a_json_file(json_file: Path, where: int, value: Any) -> None:
    original = json_file.read_text()
    values = json.loads(original)
    nodes = places(values)
    path = nodes[where % len(nodes)]
    changed = {"root": copy.deepcopy(values)}
    *parents, last = ("root", *path)
    held: Any = changed
    for key in parents:
        held = held[key]
    held[last] = value
    try:
        json_file.write_text(json.dumps(changed["root"]), encoding="utf-8", errors="replace")
        check(json_file, "labelme" if json_file.name == "a.json" else "label_studio")
        check(json_file, None)
    finally:
        json_file.write_text(original)


@settings(max_examples=100, derandomize=True)
@given(where=st.integers(0, 10**6), value=st.sampled_from([piece for piece in PIECES if "\x00" not in piece]))
def test_any_text_at_any_attribute_of_an_xml_file(
    tmp_path_factory: pytest.TempPathFactory, where: int, value: str
) -> None:
    from xml.etree import ElementTree

    path = cvat(tmp_path_factory.mktemp("xml") / "data")
    root = ElementTree.parse(path).getroot()
    held = [(each, key) for each in root.iter() for key in each.keys()]  # noqa: SIM118 an Element is no mapping
    element, key = held[where % len(held)]
    element.set(key, value.encode("utf-8", "replace").decode())
    path.write_bytes(ElementTree.tostring(root))
    check(path, "cvat")
    shutil.rmtree(path.parents[1])
