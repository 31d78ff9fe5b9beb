"""Lists of image files as CSV and Parquet."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from kpnet.inference.image_lists import is_image_list, read_image_list
from kpnet.inference.inputs import find_images

BOXES = pd.DataFrame({"image": ["a.png", "a.png", "b.png", "a.png"], "x0": 0.0, "y0": 1, "x1": 5.5, "y1": [6, 7, 8, 9]})


def test_only_columns_of_images_and_boxes_make_a_list(tmp_path: Path) -> None:
    for number, (text, expected) in enumerate(
        [
            ("image\na.png\n", True),
            ("\ufeffimage,x0,y0,x1,y1\n", True),
            ("image,nose_x,nose_y\n", False),
            ("image,x0\n", False),
            ("", False),
        ]
    ):
        path = tmp_path / f"{number}.csv"
        path.write_text(text)
        assert is_image_list(path) == expected, text
    (tmp_path / "broken.parquet").write_text("image")
    assert not is_image_list(tmp_path / "broken.parquet")
    assert not is_image_list(tmp_path)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_rows_of_one_image_are_its_instances(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"list{suffix}"
    BOXES.to_csv(path, index=False) if suffix == ".csv" else BOXES.to_parquet(path, index=False)
    assert is_image_list(path)
    failures: list[str] = []
    found = list(read_image_list(path, failures))
    assert found == [
        ("a.png", ((0, 1, 5.5, 6), (0, 1, 5.5, 7))),
        ("b.png", ((0, 1, 5.5, 8),)),
        ("a.png", ((0, 1, 5.5, 9),)),
    ]
    assert not failures


def test_a_bad_row_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("image,x0,y0,x1,y1\na.png,0,0,5,5\nb.png,0,0,5\nc.png,0,0,wide,5\n,0,0,5,5\nd.png,0,0,5,5\n")
    failures: list[str] = []
    assert [name for name, _ in read_image_list(path, failures)] == ["a.png", "d.png"]
    assert [line.split(": ")[1] for line in failures] == ["line 3", "line 4", "line 5"]
    assert all("\n" not in line for line in failures)


def test_an_image_with_and_without_boxes_is_predicted_as_both(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("image,x0,y0,x1,y1\na.png\na.png,1,2,3,4\nb.png,1,2,3,4\nb.png\n")
    box = ((1, 2, 3, 4),)
    assert list(read_image_list(path, [])) == [("a.png", None), ("a.png", box), ("b.png", box), ("b.png", None)]


def test_paths_are_relative_to_the_list(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    cv2.imwrite(str(tmp_path / "sub" / "a.png"), np.full((4, 6), 9, np.uint8))
    path = tmp_path / "list.csv"
    path.write_text(f"image\nsub/a.png\n{tmp_path}/sub/a.png\nsub/gone.png\n")
    first, second, gone = find_images([path], [])
    assert (first.load() == second.load()).all()
    assert first.load().shape == (4, 6, 3)
    assert gone.file == tmp_path / "sub" / "gone.png"
    assert not first.target.is_absolute()
    assert not second.target.is_absolute()
