"""Which columns of a table are the image and the points, however they are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.format_files import NAMES, every_instance, write_points_csv

from kpnet.core.errors import KpnetError
from kpnet.data import PointsCSV
from kpnet.data.formats.detect import detect_format
from kpnet.data.formats.table_columns import canonical_columns

PLAIN = [f"{name}_{axis}" for name in NAMES for axis in "xy"]
HEADERS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "filename": (["filename", *PLAIN], NAMES),
    "image_path": (["image_path", *PLAIN], NAMES),
    "File Name": (["File Name", *PLAIN], NAMES),
    "Image, as that of pixels": (["Image", *PLAIN], NAMES),
    "points": (["image", *(name.replace("_x", ".x").replace("_y", ".y") for name in PLAIN)], NAMES),
    "capitals": (["image", *(name.replace("_x", "_X").replace("_y", "_Y") for name in PLAIN)], NAMES),
    "x0": (["img", "x0", "y0", "x1", "y1", "x2", "y2"], ("0", "1", "2")),
    "pandas' unnamed index": (["", *map(str, range(6))], ("0", "1", "2")),
    "numbers": (["image_name", *map(str, range(6))], ("0", "1", "2")),
    "nothing": ([], ("0", "1", "2")),
}


def rows() -> list[list[str]]:
    return [[name, *("" if np.isnan(v) else repr(v) for v in xy.ravel().tolist())] for name, xy in every_instance()]


def written(folder: Path, lines: list[list[str]], delimiter: str = ",") -> Path:
    path = write_points_csv(folder)
    path.write_text("\n".join(map(delimiter.join, lines)) + "\n")
    return path


def check(path: Path, names: tuple[str, ...]) -> PointsCSV:
    assert detect_format(path) == (path, "points_csv")
    data = PointsCSV(path)
    assert data.skeleton.names == names
    for index, (name, xy) in enumerate(every_instance()):
        assert data.image_name(index) == name
        assert np.array_equal(data.keypoints(index), xy, equal_nan=True)
    return data


@pytest.mark.parametrize("case", HEADERS)
def test_headers_of_other_tools(tmp_path: Path, case: str) -> None:
    header, names = HEADERS[case]
    data = check(written(tmp_path, [header, *rows()] if header else rows()), names)
    assert len(data) == 4
    assert bool(data.skipped.notes) is (not header or "0" in header), "that columns are x and y in turn"


def test_an_index_of_pandas_beside_the_images(tmp_path: Path) -> None:
    lines = [["Unnamed: 0", "image", *PLAIN], *([str(k), *row] for k, row in enumerate(rows()))]
    check(written(tmp_path, lines), NAMES)


@pytest.mark.parametrize("header", [True, False])
def test_semicolons_and_a_decimal_comma(tmp_path: Path, header: bool) -> None:
    lines = [[row[0], *(cell.replace(".", ",") for cell in row[1:])] for row in rows()]
    check(
        written(tmp_path, [["image", *PLAIN], *lines] if header else lines, ";"), NAMES if header else ("0", "1", "2")
    )


@pytest.mark.parametrize("point", ["name", "bodypart", "keypoint", "landmark"])
def test_one_row_for_each_point(tmp_path: Path, point: str) -> None:
    """In any order, with missing points left out; instances are told apart by their column."""
    lines = [
        [name, str(number), called, *map(repr, each)]
        for number, (name, xy) in enumerate(every_instance())
        for called, each in zip(NAMES, xy.tolist(), strict=True)
        if np.isfinite(each).all()
    ]
    lines = [*lines[6:], *lines[:6]]
    path = written(tmp_path, [["file", "instance", point, "x", "y"], *lines])
    data = PointsCSV(path)
    found = {(data.image_name(i), data.instance(i)): data.keypoints(i) for i in range(len(data))}
    expected = {(name, k): xy for (name, xy), k in zip(every_instance(), [0, 1, 0, 0], strict=True)}
    assert found.keys() == expected.keys()
    for key, xy in expected.items():
        assert np.array_equal(found[key], xy, equal_nan=True)
    path.write_text("file,name,x,y\na.png,nose,1,2\na.png,nose,3,4\n")
    with pytest.raises(KpnetError, match=r"a\.png has several rows of the point nose, the first in line 2; .*instance"):
        PointsCSV(path)


def test_a_single_point(tmp_path: Path) -> None:
    data = PointsCSV(written(tmp_path, [["image", "x", "y"], ["a.png", "3", "4"], ["b.png", "5", "6"]]))
    assert data.skeleton.names == ("point",)
    assert data.keypoints(1).tolist() == [[5, 6]]


REFUSED = {
    "an odd number": (["a.png", "1", "2", "3"], "3 numbers for each image and no names"),
    "no number": (["a.png"], "0 numbers for each image and no names"),
    "two images": (["file_path", "filepath", "a_x", "a_y"], "file_path, filepath all name an image; keep one"),
    "none": (["photo", "a_x", "a_y"], 'no column "image"'),
    "twice": (["file", "a_x", "a.x", "a_y"], 'column "a_x" appears 2 times'),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_clear(case: str) -> None:
    header, message = REFUSED[case]
    with pytest.raises(KpnetError, match=message):
        canonical_columns(Path("a.csv"), header, [])


def test_thousands_of_columns_keep_their_order(tmp_path: Path) -> None:
    names = [f"p{k}" for k in range(8_000)]
    header = ["image", *(f"{name}_{axis}" for name in names for axis in "xy")]
    path = written(tmp_path, [header, ["a.png", *map(str, range(16_000))]])
    data = PointsCSV(path)
    assert data.skeleton.names == tuple(names)
    assert data.keypoints(0)[-1].tolist() == [15_998, 15_999]
