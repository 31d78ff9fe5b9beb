"""A folder of images: every image once, in a stable order, without a label."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from support.four_points import PAIR

from kpnet.config.schema import DataConfig
from kpnet.core.errors import KpnetError
from kpnet.data import ImageFolder
from kpnet.data.images import find_image_files


def write(path: Path, value: int, size: tuple[int, int] = (6, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full(size, value, np.uint8))


def test_images_of_subfolders_too_and_nothing_else(tmp_path: Path) -> None:
    for value, name in enumerate(("b.png", "a/c.PNG", "a/d/e.bmp")):
        write(tmp_path / name, 10 * value)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()  # named like an image
    data = ImageFolder(tmp_path)
    names = [data.image_name(i) for i in range(len(data))]
    assert names == ["a/c.PNG", "a/d/e.bmp", "b.png"]
    assert [int(data.read(i)[0].max()) for i in range(3)] == [10, 20, 0]
    assert find_image_files(tmp_path) == [tmp_path / name for name in names]


def test_every_point_of_the_skeleton_is_missing(tmp_path: Path) -> None:
    write(tmp_path / "a.png", 5)
    data = ImageFolder.open(DataConfig(format="folder", root=str(tmp_path)), ".", PAIR)
    assert data.skeleton == PAIR
    assert not data.labels().any()
    assert data.labels().shape == (1, len(PAIR))
    image, xy = data.read(0)
    assert image.shape == (6, 8, 3)
    assert np.isnan(xy).all()
    assert xy.shape == (len(PAIR), 2)
    item = data[0]
    assert not item["visible"].any()
    assert not item["weight"].any()


@pytest.mark.parametrize(("exif", "shape"), [(True, (8, 6, 3)), (False, (6, 8, 3))])
def test_a_turned_photo_is_upright_unless_asked_otherwise(exif: bool, shape: tuple[int, ...], tmp_path: Path) -> None:
    photo = Image.fromarray(np.zeros((6, 8, 3), np.uint8))
    tags = photo.getexif()
    tags[274] = 6  # turned by a quarter
    photo.save(tmp_path / "a.jpg", exif=tags)
    assert ImageFolder(tmp_path, exif=exif).read(0)[0].shape == shape


def test_a_damaged_image_is_skipped_and_named(tmp_path: Path) -> None:
    write(tmp_path / "a.png", 5)
    (tmp_path / "b.png").write_text("no image")
    data = ImageFolder(tmp_path)
    assert [data.image_name(i) for i in range(len(data))] == ["a.png"]
    (message,) = data.skipped.messages
    assert "b.png" in message
    with pytest.raises(KpnetError, match=r"b\.png"):
        ImageFolder(tmp_path, strict=True)


def test_no_folder_and_no_image_in_it(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("gone", "empty"):
        with pytest.raises(KpnetError, match=name):
            ImageFolder(tmp_path / name)


def test_images_without_labels_are_not_known_to_be_empty(tmp_path: Path) -> None:
    write(tmp_path / "a.png", 5)
    assert [(each.name, each.partial) for each in ImageFolder(tmp_path).surroundings()] == [("a.png", True)]
