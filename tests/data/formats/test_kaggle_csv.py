from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
from support.paths import SHARED

import kpnet.data.formats.pixel_csv as pixel_csv
from kpnet.config.schema import DataConfig
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data import DATASETS, KaggleCSV

FACES = SHARED / "data" / "faces15"
FACIAL15 = Skeleton.load("facial15")
real_data = pytest.mark.skipif(not FACES.is_dir(), reason=f"no real faces at {FACES} (set KPNET_SHARED)")

HEADER = "eye_x,eye_y,Image"
PIXELS = "0 1 2 3 4 5 6 7 255"  # 3 x 3
ROW = f"1.5,2,{PIXELS}"


def write(tmp_path: Path, *lines: str, name: str = "faces.csv", newline: str = "\n") -> Path:
    path = tmp_path / name
    path.write_bytes(newline.join([*lines, ""]).encode())
    return path


def random_table(
    rng: np.random.Generator, names: Sequence[str], rows: int, side: int
) -> tuple[pd.DataFrame, np.ndarray]:
    frame = pd.DataFrame({f"{n}_{a}": rng.uniform(0, side, rows).round(4) for n in names for a in "xy"})
    images = rng.integers(0, 256, (rows, side, side))
    frame["Image"] = [" ".join(map(str, image.ravel())) for image in images]
    return frame, images


@pytest.mark.parametrize(("quoting", "newline"), [(0, "\n"), (1, "\n"), (0, "\r\n")])
@pytest.mark.parametrize("chunk", [1, 700, 1 << 20])
def test_reads_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng_seed: int, quoting: Literal[0, 1], newline: str, chunk: int
) -> None:
    monkeypatch.setattr(pixel_csv, "_CHUNK", chunk)
    frame, images = random_table(np.random.default_rng(rng_seed), ["b_left", "a", "b_right"], 20, 7)
    frame = frame.sample(frac=1, axis=1, random_state=rng_seed)  # columns in any order, Image anywhere
    path = tmp_path / "faces.csv"
    frame.to_csv(path, index=False, quoting=quoting, lineterminator=newline)
    data = KaggleCSV(path)
    assert data.images.dtype == np.uint8
    assert np.array_equal(data.images, images)
    expected = np.stack([frame[[f"{n}_x", f"{n}_y"]].to_numpy() for n in data.skeleton.names], axis=1)
    assert np.array_equal(data.keypoints, expected)
    order = [c[:-2] for c in frame.columns if c.endswith("_x")]
    assert list(data.skeleton.names) == order
    assert data.skeleton.pairs == (("b_left", "b_right"),) or data.skeleton.pairs == (("b_right", "b_left"),)


@pytest.fixture(params=[0, 1, 2])
def rng_seed(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def test_every_number_of_a_pixel(tmp_path: Path) -> None:
    path = write(tmp_path, "Image", " ".join(map(str, range(256))), "  ".join(f"{v:03d}" for v in range(256)) + " ")
    for image in KaggleCSV(path).images:
        assert np.array_equal(image.ravel(), np.arange(256))


def test_missing_points_and_complete_only(tmp_path: Path) -> None:
    header = "a_x,a_y,b_x,b_y,Image"
    path = write(
        tmp_path, header, f"1,2,,,{PIXELS}", f"1,,3,4,{PIXELS}", "", f"5,6,7,8,{PIXELS}", f",,nan,NaN,{PIXELS}"
    )
    data = KaggleCSV(path)
    nan = [np.nan, np.nan]
    expected = np.array([[[1, 2], nan], [nan, [3, 4]], [[5, 6], [7, 8]], [nan, nan]])
    assert np.array_equal(data.keypoints, expected, equal_nan=True)
    assert data[1]["visible"].tolist() == [False, True]
    complete = KaggleCSV(path, complete_only=True)
    assert len(complete) == 1
    assert complete.image_name(0) == "2"  # its row in the file, from 0
    assert np.array_equal(complete.read(0)[1], [[5, 6], [7, 8]])
    only_b = KaggleCSV(path, complete_only=True, skeleton=Skeleton(("b",)))
    assert [only_b.image_name(i) for i in range(len(only_b))] == ["1", "2"]


def test_weights(tmp_path: Path) -> None:
    header = "a_x,a_y,a_weight,b_weight,b_x,b_y,c_x,c_y,Image"
    rows = ["1,1,0,0.3,3,3,,", "1,1,0.5,2,3,3,4,4", "1,1,,nan,3,3,4,4", "1,1,1,1,,,4,4"]
    path = write(tmp_path, header, *(f"{row},{PIXELS}" for row in rows))
    data = KaggleCSV(path, skeleton=Skeleton(("c", "b", "a")))
    assert data.labels().astype(int).tolist() == [[0, 1, 0], [1, 1, 1], [1, 1, 1], [1, 0, 1]]  # of weight 0: missing
    weights = [[0, 0.3, 0], [1, 2, 0.5], [1, 1, 1], [1, 0, 1]]
    assert [data[i]["weight"].tolist() for i in range(4)] == [pytest.approx(w) for w in weights]
    complete = KaggleCSV(path, complete_only=True)
    assert complete.skeleton.names == ("a", "b", "c")
    assert [complete[i]["weight"].tolist() for i in range(len(complete))] == [[0.5, 2, 1], [1, 1, 1]]


def test_skeleton_gives_the_order_and_may_leave_points_out(tmp_path: Path) -> None:
    path = write(tmp_path, "a_x,a_y,b_x,b_y,c_x,c_y,Image", f"1,2,3,4,5,6,{PIXELS}")
    data = KaggleCSV(path, skeleton=Skeleton(("c", "a")))
    assert data.keypoints.tolist() == [[[5, 6], [1, 2]]]
    with pytest.raises(KpnetError, match=r'no column "bb_x" \(did you mean "b_x"\?\)'):
        KaggleCSV(path, skeleton=Skeleton(("a", "bb")))


def test_facial15_by_its_names_in_any_order(tmp_path: Path) -> None:
    frame, _ = random_table(np.random.default_rng(0), FACIAL15.names[::-1], 2, 4)
    frame.to_csv(tmp_path / "faces.csv", index=False)
    data = KaggleCSV(tmp_path / "faces.csv")
    assert data.skeleton == FACIAL15
    assert np.array_equal(data.keypoints[:, 0, 0], frame["left_eye_center_x"])


def test_without_labels(tmp_path: Path) -> None:
    path = write(tmp_path, "ImageId,Image", f"7,{PIXELS}", f'"x,y",{PIXELS}')
    data = KaggleCSV(path)
    assert not data.labelled
    assert data.skeleton == FACIAL15
    assert np.isnan(data.keypoints).all()
    assert data[0]["visible"].sum() == 0
    assert [data.image_name(i) for i in range(2)] == ["7", "x,y"]
    assert KaggleCSV(path, skeleton=Skeleton(("a", "b"))).keypoints.shape == (2, 2, 2)
    with pytest.raises(KpnetError, match="complete_only"):
        KaggleCSV(path, complete_only=True)
    assert KaggleCSV(write(tmp_path, HEADER, ROW)).labelled


def test_read_gives_copies(tmp_path: Path) -> None:
    data = KaggleCSV(write(tmp_path, HEADER, ROW))
    for array in data.read(0):
        array[:] = 99
    assert data.images[0, 0, 1] == 1
    assert data.keypoints[0, 0, 0] == 1.5


def test_open_from_a_config(tmp_path: Path) -> None:
    write(tmp_path, HEADER, ROW, f",,{PIXELS}")
    config = DataConfig(root=str(tmp_path), complete_only=True)
    data = DATASETS.find("kaggle_csv").open(config, "faces.csv", None, seed=3)
    assert (len(data), data.seed) == (1, 3)


BAD: dict[str, tuple[list[str], str]] = {
    "empty file": ([], r"faces\.csv: empty; expected a header"),
    "header only": ([HEADER], "a header but no rows"),
    "no Image": (["eye_x,eye_y,image", ROW], r'no Image column .*\(did you mean "image"\?\)'),
    "a column twice": (["eye_x,eye_y,eye_x,Image", ROW], r'column "eye_x" appears 2 times'),
    "x without y": (["eye_x,nose_x,nose_y,Image", ROW], r'column "eye_x" without "eye_y"'),
    "y without x": (["eye_y,Image", ROW], r'column "eye_y" without "eye_x"'),
    "misspelt partner": (["eye_x,eyes_y,Image", ROW], r'"eye_x" without "eye_y" \(did you mean "eyes_y"\?\)'),
    "another column": (["eye_X,eye_y,Image", ROW], r'column "eye_X" is neither .* \(did you mean "eye_x"\?\)'),
    "pandas' index": ([f",{HEADER}", f"0,{ROW}"], r"column without a name.*index=False"),
    "one pixel short": ([HEADER, ROW, "1,2,0 1 2 3 4 5 6 7"], r"line 3 \(data row 2\): 8 pixels, expected 9"),
    "one pixel more": ([HEADER, "", ROW, ROW + " 3"], r"line 4 \(data row 2\): 10 pixels, expected 9"),
    "no square": ([HEADER, "1,2,0 1 2 3 4 5 6 7"], r"line 2 \(data row 1\): 8 pixels.*nearest is 9 = 3 × 3"),
    "no pixels": ([HEADER, "1,2,"], r"line 2 \(data row 1\): 0 pixels"),
    "a word": (
        [HEADER, ROW, "1,2,0 1 x 3 4 5 6 7 8"],
        r'line 3 \(data row 2\): pixel 3 is "x"; expected whole numbers',
    ),
    "over 255": ([HEADER, ROW, "1,2,0 1 2 3 4 5 6 7 256"], r'line 3 \(data row 2\): pixel 9 is "256"'),
    "300": ([HEADER, ROW, "1,2,300 1 2 3 4 5 6 7 8"], r'line 3 \(data row 2\): pixel 1 is "300"'),
    "1000": ([HEADER, ROW, "1,2,0 1 2 1000 4 5 6 7 8"], r'line 3 \(data row 2\): pixel 4 is "1000"'),
    "negative": ([HEADER, ROW, "1,2,0 -1 2 3 4 5 6 7 8"], r'line 3 \(data row 2\): pixel 2 is "-1"'),
    "fraction": ([HEADER, ROW, "1,2,0 12.5 2 3 4 5 6 7 8"], r'line 3 \(data row 2\): pixel 2 is "12.5"'),
    "coordinate": ([HEADER, ROW, f"1,2o,{PIXELS}"], r'line 3 \(data row 2\): eye_y is "2o"; expected pixels'),
    "a weight below 0": (
        ["e_x,e_y,e_weight,Image", f"1,2,-1,{PIXELS}"],
        r'\(data row 1\): e_weight is "-1"; .*at least 0',
    ),
    "a word for a weight": (["e_x,e_y,e_weight,Image", f"1,2,big,{PIXELS}"], r'e_weight is "big"; expected a weight'),
    "an infinite weight": (["e_x,e_y,e_weight,Image", f"1,2,inf,{PIXELS}"], r'e_weight is "inf"; expected a weight'),
    "a weight without a point": (
        ["eye_x,eye_y,nose_weight,Image", f"1,2,1,{PIXELS}"],
        'column "nose_weight" is neither',
    ),
    "infinite": ([HEADER, ROW, f"inf,2,{PIXELS}"], r'line 3 \(data row 2\): eye_x is "inf"'),
    "cut short": ([HEADER, ROW, "1.5,2"], r"line 3 \(data row 2\): cells: expected 3 .*, found 2"),
    "a cell more": ([HEADER, ROW, f"1,2,3,{PIXELS}"], r"line 3 \(data row 2\): cells: expected 3 .*, found 4"),
    "comma within quotes": (["ImageId,Image", f'a"b,c"d,{PIXELS}'], r"line 2 \(data row 1\): .* 2 .*, found 3"),
    "open quote": ([HEADER, ROW, f'1,2,"{PIXELS}', ROW], r"line 3 \(data row 2\): a quote"),
    "zip": (["PK\x03\x04..."], "zip archive"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, chunk: int) -> None:
    monkeypatch.setattr(pixel_csv, "_CHUNK", chunk)
    lines, message = BAD[case]
    path = write(tmp_path, *lines) if lines else tmp_path / "faces.csv"
    path.touch()
    with pytest.raises(KpnetError, match=message) as caught:
        KaggleCSV(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(KpnetError, match=re.escape(f"{tmp_path / 'none.csv'}: no such file")):
        KaggleCSV(tmp_path / "none.csv")
    with pytest.raises(KpnetError, match="a folder"):
        KaggleCSV(tmp_path)


@real_data
@pytest.mark.parametrize(("name", "rows", "points"), [("val.csv", 200, 15), ("partial.csv", 340, 4)])
def test_real_files_as_pandas_reads_them(name: str, rows: int, points: int) -> None:
    data = KaggleCSV(FACES / name)
    frame = pd.read_csv(FACES / name)
    assert data.skeleton == FACIAL15
    assert data.images.shape == (rows, 96, 96)
    assert (np.isfinite(data.keypoints).all(-1).sum(1) == points).all()
    labels = frame.drop(columns="Image").to_numpy().reshape(rows, 15, 2)
    assert np.array_equal(data.keypoints, labels, equal_nan=True)
    pixels = np.array([row.split() for row in frame["Image"]], dtype=np.int64).reshape(rows, 96, 96)
    assert np.array_equal(data.images, pixels)


def test_a_file_without_labels_says_nothing_of_its_images(tmp_path: Path) -> None:
    """While a row of empty cells in a file with labels is an image with nothing on it."""
    test = KaggleCSV(write(tmp_path, "Image", PIXELS), skeleton=Skeleton(("eye",)))
    assert [each.partial for each in test.surroundings()] == [True]
    assert KaggleCSV(write(tmp_path, HEADER, ROW, f",,{PIXELS}")).surroundings() == []


def test_coordinates_that_count_from_the_edge_of_the_image(tmp_path: Path) -> None:
    """There the centre of an image 4 pixels wide is at 2, which is pixel 1.5: -1 and 1 are its edges."""
    path = write(tmp_path, "nose_x,nose_y,Image", "2,0.5," + " ".join(["0"] * 16))
    data = KaggleCSV(path, index_base=0.5)
    assert data.read(0)[1].tolist() == [[1.5, 0.0]]
    assert data[0]["keypoints"].tolist() == [[0.0, -0.75]]
