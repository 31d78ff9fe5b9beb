"""Images that are the same: a file, a copy of it, a link to it, or the same pixels in another container."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np

from kpnet.data import NPZ, PointsCSV
from kpnet.data.duplicates import KnownImages, pixel_digest


def test_the_same_file_a_link_and_a_copy_are_known(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    for name, image in zip("ab", images, strict=True):
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
    (tmp_path / "labels.csv").write_text("image,nose_x,nose_y\na.png,3,4\n")
    known = KnownImages([PointsCSV(tmp_path / "labels.csv")])
    shutil.copy(tmp_path / "a.png", tmp_path / "copy.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    assert [known.has_file(tmp_path / f"{name}.png") for name in ("a", "copy", "link", "b")] == [
        True,
        True,
        True,
        False,
    ]
    assert not known.has_file(tmp_path / "gone.png")
    cv2.imwrite(str(tmp_path / "a.bmp"), images[0])
    assert not known.has_file(tmp_path / "a.bmp")  # other bytes: two files are not decoded to be compared
    # an image without a file is compared by its pixels, RGB as kpnet reads them
    assert [known.has_digest(pixel_digest(image[..., ::-1])) for image in images] == [True, False]


def test_files_that_are_gone_are_not_like_each_other(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 30, 3), np.uint8))
    (tmp_path / "labels.csv").write_text("image,nose_x,nose_y\na.png,3,4\n")
    known = KnownImages([PointsCSV(tmp_path / "labels.csv")])
    (tmp_path / "a.png").unlink()
    assert not known.has_file(tmp_path / "gone.png")


def test_pixels_tell_images_apart() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (4, 6), dtype=np.uint8)
    colour = np.stack([grey] * 3, -1)
    assert pixel_digest(grey) == pixel_digest(colour) == pixel_digest(grey[..., None])
    other = colour.copy()
    other[1, 2, 1] ^= 1
    assert pixel_digest(grey) != pixel_digest(other)
    assert pixel_digest(grey) != pixel_digest(grey.reshape(6, 4))  # the same bytes in another shape


def test_an_image_of_twelve_bits_is_compared_as_it_is_read(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 30), dtype=np.uint8)
    np.savez(tmp_path / "labels.npz", images=images, keypoints=np.ones((2, 1, 2)))
    cv2.imwrite(str(tmp_path / "a.png"), images[1].astype(np.uint16) << 4)
    known = KnownImages([NPZ(tmp_path / "labels.npz")])
    assert known.has_file(tmp_path / "a.png", bits=12)
    assert not known.has_file(tmp_path / "a.png")
