"""Which format a file or folder has, found from what it is."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from support.format_files import write_coco, write_dlc, write_points_csv, write_pts

from kpnet.core.errors import KpnetError
from kpnet.data.formats.detect import detect_format


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((4, 4), np.uint8))


FILES = {
    "a.json": ("{}", "coco"),
    "a.NPZ": ("", "npz"),
    "a.parquet": ("", "points_csv"),
    "a.csv": ("image,nose_x,nose_y\n", "points_csv"),
    "quoted.csv": ('"nose_x", "nose_y", "image"\n', "points_csv"),
    "excel.csv": ("\ufeffimage,nose_x,nose_y\n", "points_csv"),
    "kaggle.csv": ("nose_x,nose_y,Image\n", "kaggle_csv"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_by_its_suffix_and_a_csv_by_its_header(name: str, tmp_path: Path) -> None:
    text, form = FILES[name]
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert detect_format(path) == (path, form)
    assert detect_format(tmp_path) == (path, form), "the only file of labels in its folder"


def test_folders(tmp_path: Path) -> None:
    project = write_dlc(tmp_path / "dlc")
    assert detect_format(project) == (project, "deeplabcut")
    assert detect_format(project / "config.yaml") == (project, "deeplabcut")
    faces = write_pts(tmp_path / "pts")
    assert detect_format(faces) == (faces, "pts"), "not the images beside the points"
    image(tmp_path / "photos" / "deep" / "a.PNG")
    assert detect_format(tmp_path / "photos") == (tmp_path / "photos", "folder")
    for write, form in ((write_coco, "coco"), (write_points_csv, "points_csv")):
        path = write(tmp_path / form)
        assert detect_format(path.parent) == (path, form), "not the folder of its images"


def test_what_is_not_clear_is_refused_by_name(tmp_path: Path) -> None:
    def refused(path: Path, *parts: str) -> None:
        with pytest.raises(KpnetError) as caught:
            detect_format(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        assert all(part in message for part in parts), message
        assert "\n" not in message

    refused(tmp_path / "gone.csv")
    (tmp_path / "a.txt").touch()
    refused(tmp_path / "a.txt", "--format", "data.format")
    (tmp_path / "table.csv").write_text("scorer,me,me\nbodyparts,nose,nose\n")
    refused(tmp_path / "table.csv", "config.yaml")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty")
    for name in ("a.csv", "b.json"):
        (tmp_path / "two").mkdir(exist_ok=True)
        (tmp_path / "two" / name).write_text("image\n")
    refused(tmp_path / "two", "a.csv, b.json")
