"""CSV and Parquet files of points, and npz files of arrays."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import ExifTags, Image
from support.format_files import csv_lines, every_instance, write_points_csv

from kpnet.core.errors import KpnetError
from kpnet.data import PointsCSV
from kpnet.data.wrappers.scenes import Scenes


def write(folder: Path, lines: list[str]) -> Path:
    path = write_points_csv(folder)
    path.write_text("\n".join(lines) + "\n")
    return path


def test_boxes_and_visibility(tmp_path: Path) -> None:
    lines = csv_lines()
    more = ["box_x0,box_y0,box_x1,box_y1,nose_visibility", "1,2,30.5,40,1", ",,,,2", "0,0,5,5,", "0,0,5,5,0"]
    data = PointsCSV(write(tmp_path, [f"{a},{b}" for a, b in zip(lines, more, strict=True)]))
    assert data.box(0).tolist() == [1, 2, 30.5, 40]  # type: ignore[union-attr]
    assert data.box(1) is None
    assert [data.visibility(i).tolist() for i in range(4)] == [[1, 2, 2], [2, 2, 2], [2, 2, 2], [0, 0, 2]]
    assert data.labels().tolist() == [[True] * 3] * 3 + [[False, False, True]]


@pytest.mark.parametrize("level", ["-1", "3", "0.5", "inf"])
def test_an_unknown_visibility_leaves_the_point_out(tmp_path: Path, level: str) -> None:
    lines = csv_lines()
    more = ["nose_visibility", "2", level, "1", "0"]
    path = write(tmp_path, [f"{a},{b}" for a, b in zip(lines, more, strict=True)])
    data = PointsCSV(path)
    assert data.skipped.notes == [f"line 3: nose has visibility {level}; expected 0, 1 or 2; the point is left out"]
    assert [data.image_name(i) for i in range(len(data))] == ["a.png", "a.png", "b.png", "c.png"]
    assert data.visibility(1).tolist() == [0, 2, 2]
    with pytest.raises(KpnetError, match="line 3: nose has visibility"):
        PointsCSV(path, strict=True)


@pytest.mark.parametrize("exif", [True, False])
def test_a_box_outside_the_picture_is_left_out_without_a_size_in_the_file(tmp_path: Path, exif: bool) -> None:
    """Images are of 80x60 pixels; a.png is turned: 60x80 as shown, 80x60 as stored."""
    for name in "ab":
        turned = Image.Exif()
        turned[ExifTags.Base.Orientation] = 6 if name == "a" else 1
        Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(tmp_path / f"{name}.png", exif=turned)
    boxes = {"a": ["65,5,75,15", "5,65,15,75"], "b": ["65,5,75,15", "5,65,15,75", ",,,"]}
    rows = [f"{name}.png,3,4,{box}" for name, each in boxes.items() for box in each]
    path = tmp_path / "points.csv"
    path.write_text("\n".join(["image,nose_x,nose_y,box_x0,box_y0,box_x1,box_y1", *rows]))
    data = PointsCSV(path, exif=exif)
    assert data.skipped.notes == [
        "line 2: its box [65, 5, 75, 15] lies outside the image of 60x80; the box is left out"
        if exif
        else "line 3: its box [5, 65, 15, 75] lies outside the image of 80x60; the box is left out",
        "line 5: its box [5, 65, 15, 75] lies outside the image of 80x60; the box is left out",
        "instances with the same points on the same image appear more than once: line 3 is line 2, line 5 is line 4, "
        "line 6 is line 4",
    ]
    for index in range(5):
        (height, width), box = data.read(index)[0].shape[:2], data.box(index)
        assert box is None or (box[0] < width and box[1] < height)
    with pytest.raises(KpnetError, match="lies outside the image"):
        PointsCSV(path, exif=exif, strict=True)


def test_numbered_columns_in_any_order(tmp_path: Path) -> None:
    path = write_points_csv(tmp_path, numbers=True)
    table = pd.read_csv(path)
    table[list(reversed(table.columns))].to_csv(path, index=False)
    assert np.array_equal(PointsCSV(path).keypoints(0), every_instance()[0][1])


def test_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    path = write_points_csv(tmp_path)
    frame = pd.read_csv(path)
    frame.to_parquet(path.with_suffix(".parquet"))
    ours, theirs = PointsCSV(path.with_suffix(".parquet")), PointsCSV(path)
    assert ours.skeleton == theirs.skeleton
    for index in range(4):
        assert np.array_equal(ours.keypoints(index), theirs.keypoints(index), equal_nan=True)
        assert ours.image_name(index) == theirs.image_name(index)
    path.with_suffix(".parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(KpnetError, match=r"points\.parquet: not a readable Parquet file"):
        PointsCSV(path.with_suffix(".parquet"))


def test_without_pyarrow_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(KpnetError, match=r"a\.parquet: reading Parquet needs pyarrow: pip install pyarrow"):
        PointsCSV(tmp_path / "a.parquet")


REFUSED: dict[str, tuple[list[str], str]] = {
    "empty": ([], 'no column "image" among nothing; expected a header line image,NAME_x'),
    "no image": (["imag,a_x,a_y"], r'no column "image" \(did you mean "imag"\?\)'),
    "no point": (["image,a"], "no point among image, a; expected"),
    "no name": (["image,a_x,a_y,_x"], 'column "_x" .*is no point, visibility, source or box'),
    "x alone": (["image,nose_x,nose_z"], r'no column "nose_y"'),
    "twice": (["image,a_x,a_y,a_x"], 'column "a_x" appears 2 times'),
    "unknown": (["image,a_x,a_y,weight"], 'column "weight" is no point, visibility, source or box'),
    "misspelt": (["image,a_x,a_y,a_visiblity"], r'column "a_visiblity" \(did you mean "a_visibility"\?\)'),
    "half a box": (["image,a_x,a_y,box_x0"], "box_y1; found only box_x0"),
    "no rows": (["image,a_x,a_y"], "no usable labelled instances"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_no_points_csv(tmp_path: Path, name: str) -> None:
    lines, message = REFUSED[name]
    with pytest.raises(KpnetError, match=message) as caught:
        PointsCSV(write(tmp_path, lines))
    assert "\n" not in str(caught.value)


ROWS: dict[str, tuple[str, str]] = {
    "short": ("a.png,1,2", "line 4: cells: expected 7 as in the header, found 3"),
    "word": ("a.png,1,2,3,4,5,six", 'line 4: right_ear_y is "six"; expected a number'),
    "infinite": ("a.png,1,2,3,4,5,inf", "line 4: right_ear is at 5, inf"),
    "no image": (",1,2,3,4,5,6", "line 4: the cell of its image is empty"),
    "missing picture": ("z.png,1,2,3,4,5,6", "line 4: no image"),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_bad_row_is_left_out_and_named(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    row, message = ROWS[name]
    lines = csv_lines()
    path = write(tmp_path, [*lines[:3], row, *lines[3:]])
    data = PointsCSV(path)
    assert [data.image_name(i) for i in range(len(data))] == ["a.png", "a.png", "b.png", "c.png"]
    assert data.keypoints(2).tolist() == every_instance()[2][1].tolist()
    (record,) = caplog.records
    assert message in record.getMessage()
    with pytest.raises(KpnetError, match="line 4"):
        PointsCSV(path, strict=True)


def test_proposed_points_have_a_weight_of_their_own(tmp_path: Path) -> None:
    lines = csv_lines()
    more = ["nose_source", "person", "proposed", "", "proposed"]
    path = write(tmp_path, [f"{a},{b}" for a, b in zip(lines, more, strict=True)])
    names = PointsCSV(path).skeleton.names
    k = names.index("nose")
    assert [PointsCSV(path).point_weights(i).tolist() for i in range(4)] == [[1.0] * len(names)] * 4
    half = PointsCSV(path, proposed_weight=0.5)
    assert [half.point_weights(i)[k] for i in range(4)] == [1, 0.5, 1, 0.5]
    assert half[1]["weight"][k] == 0.5
    none = PointsCSV(path, proposed_weight=0)
    assert not none.labels()[[1, 3], k].any()
    with pytest.raises(KpnetError, match="proposed_weight: expected a number of at least 0, found -1"):
        PointsCSV(path, proposed_weight=-1)


def test_rows_with_only_proposed_points_are_left_out_with_these(tmp_path: Path) -> None:
    head, *rows = csv_lines()
    names = PointsCSV(write(tmp_path, [head, *rows])).skeleton.names
    head += "".join(f",{name}_source" for name in names)
    words = [",proposed" * len(names), ",person" * len(names)]
    path = write(tmp_path, [head, rows[0] + words[0], rows[1] + words[1]])
    data = PointsCSV(path, proposed_weight=0, strict=True)
    assert [data.keypoints(i).tolist() for i in range(len(data))] == [PointsCSV(path).keypoints(1).tolist()]
    assert data.skipped.notes == ["1 instances have only proposed points, which proposed_weight: 0 leaves out"]
    path = write(tmp_path, [head, rows[0] + words[0]])
    with pytest.raises(KpnetError, match="every point is a proposed one, which proposed_weight: 0 leaves out"):
        PointsCSV(path, proposed_weight=0)


def test_a_source_of_another_word_skips_the_row(tmp_path: Path) -> None:
    more = ["nose_source", "person", "robot", "", ""]
    path = write(tmp_path, [f"{a},{b}" for a, b in zip(csv_lines(), more, strict=True)])
    data = PointsCSV(path)
    assert len(data) == 3
    assert data.skipped.messages == ['line 3: nose_source is "robot"; expected person, proposed or an empty cell']


def test_rows_without_points_are_images_with_nothing_on_them(tmp_path: Path) -> None:
    """And a row that cannot be used leaves its image partly labelled."""
    path = write_points_csv(tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], "a.png,one,2,3,4,5,6", "b.png,,,,,,", lines[-1]]))
    scenes = Scenes(PointsCSV(path), (32, 32))
    truth = [scenes.truth(index) for index in range(3)]
    assert [(each.image, len(each.points), each.partial) for each in truth] == [
        ("a.png", 1, True), ("b.png", 0, False), ("c.png", 1, False)]  # fmt: skip


def test_an_empty_row_among_others_is_an_instance_without_labels(tmp_path: Path) -> None:
    path = write_points_csv(tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, "b.png,,,,,,"]))
    scenes = Scenes(PointsCSV(path), (32, 32))
    assert {scenes.image_name(i): scenes.truth(i).partial for i in range(3)} == {
        "a.png": False, "b.png": True, "c.png": False}  # fmt: skip
