"""Which format a file or folder has, found from what it is."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.format_files import write_coco, write_dlc, write_points_csv, write_pts

from kpnet.core.errors import KpnetError
from kpnet.data.formats.detect import detect_format
from kpnet.data.formats.image_files import find_folder
from kpnet.data.formats.skipped import Skipped


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
    write_points_csv(faces / "old")
    assert detect_format(faces) == (faces, "pts"), "nor a table further down"
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
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty")
    for name in ("a.csv", "b.json"):
        (tmp_path / "two").mkdir(exist_ok=True)
        (tmp_path / "two" / name).write_text("image\n")
    refused(tmp_path / "two", "a.csv, b.json")


def tree(folder: Path, **files: str) -> Path:
    """Write text files, and an image for a name that ends in png."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image(path) if name.endswith("png") else path.write_text(text)
    return folder


COCO = '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": []}'


@pytest.mark.parametrize(
    ("labels", "images", "other"),
    [
        ("annotations/person_keypoints_train2017.json", "train2017/a.png", "val2017/b.png"),
        ("annotations/person_keypoints_default.json", "images/default/a.png", "notes.txt"),
        ("annotations/person_keypoints_val.json", "val/a.png", "annotations/captions_val.json"),
        ("train/_annotations.coco.json", "train/a.png", "README.roboflow.txt"),
    ],
)
def test_the_trees_of_coco_cvat_and_roboflow(tmp_path: Path, labels: str, images: str, other: str) -> None:
    folder = tree(tmp_path, **{labels: COCO, images: "", other: COCO})
    assert detect_format(folder) == (folder / labels, "coco")
    assert find_folder(folder / labels, ["a.png"], None).resolve() == (folder / images).parent.resolve()


def test_images_that_several_folders_have(tmp_path: Path) -> None:
    """The label file's name decides; where it does not, nothing is guessed."""
    tree(tmp_path, **{"annotations/x_train.json": "", "train/a.png": "", "val/a.png": "", "annotations/x.json": ""})
    labels = tmp_path / "annotations"
    skipped = Skipped(labels)
    assert find_folder(labels / "x_train.json", ["a.png"], None, skipped) == tmp_path / "train"
    assert skipped.notes == ["images are read from ../train"]
    with pytest.raises(KpnetError, match=r"several folders have its images: \.\./train, \.\./val; set images to one"):
        find_folder(labels / "x.json", ["a.png"], None)
    assert find_folder(labels / "x.json", ["a.png"], "../val") == labels / "../val"
    nowhere = tree(tmp_path / "deep", **{"labels.csv": ""})
    assert find_folder(nowhere / "labels.csv", ["a.png"], None) == nowhere, "nothing beyond it is searched"


def test_labels_that_kpnet_does_not_read_are_named_instead_of_a_folder_of_images(tmp_path: Path) -> None:
    folder = tree(tmp_path, **{"images/a.png": "", "annotations.xml": "<dataset><image file='a.png'/></dataset>"})
    with pytest.raises(KpnetError, match=r"annotations\.xml is a dlib XML file, .*; .*--format folder"):
        detect_format(folder)
    (folder / "annotations.xml").write_text("<other/>")
    assert detect_format(folder) == (folder, "folder")


def test_files_of_labelling_tools_are_found_beside_their_images(tmp_path: Path) -> None:
    shapes, tasks = '{"shapes": [], "imagePath": "a.png"}', '[{"data": {}, "annotations": [{"result": []}]}]'
    files = {
        "labelme": {"a.png": "", "a.json": shapes, "b.png": "", "b.json": shapes, "classes.txt": "a"},
        "label_studio": {"images/a.png": "", "project-1.json": tasks, "config.xml": "<View/>"},
        "cvat": {"images/a.png": "", "annotations.xml": "<annotations><meta></meta></annotations>"},
    }
    for form, content in files.items():
        folder = tree(tmp_path / form, **content)
        source, found = detect_format(folder)
        assert found == form
        assert source == (folder if form == "labelme" else folder / list(content)[1])


def test_other_files_beside_images_do_not_matter(tmp_path: Path) -> None:
    folder = tree(
        tmp_path, **{"a.png": "", "photos.zip": "PK", "b.json": "[1]", "c.json": "{}", "d.pkl": "", "e.npy": ""}
    )
    for name in ("x.json", "y.yaml"):
        os.mkfifo(folder / name)
    assert detect_format(folder) == (folder, "folder")
