"""`kpnet data check` says which option reads labels of another convention right, and is silent about right ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from support.console import Run
from support.format_files import write_coco, write_dlc, write_points_csv, write_pts

from kpnet.data import NPZ, PTS, PointsCSV
from kpnet.data.build import open_dataset
from kpnet.data.check import check_data

RNG = np.random.default_rng(0)
TRUE = np.stack([RNG.uniform(4, 85, (12, 3)), RNG.uniform(4, 55, (12, 3))], -1)  # in images of 90x60
GIVEN = {
    "missing: 0": np.where(np.arange(12)[:, None, None] < 3, 0, TRUE),
    "missing: -1": np.where(np.arange(12)[:, None, None] < 1, -1, TRUE),
    "normalized: true": TRUE / (90, 60),
    "swap_xy: true": TRUE[..., ::-1],
    "index_base: 1": np.concatenate([TRUE + 1, np.full((1, 3, 2), [90, 30])]),
}


def opened(folder: Path, points: np.ndarray, **options: Any) -> NPZ:
    images = RNG.integers(0, 255, (len(points), 60, 90), np.uint8)
    np.savez(folder / "a.npz", images=images, keypoints=points)
    return NPZ(folder / "a.npz", **options)


@pytest.mark.parametrize("option", GIVEN)
def test_the_option_that_reads_it_right(tmp_path: Path, option: str) -> None:
    (hint,) = check_data(opened(tmp_path, GIVEN[option])).hints
    assert f"{{name: npz, {option}}}" in hint
    given = yaml.safe_load(f"{{{option}}}")
    assert check_data(opened(tmp_path, GIVEN[option], **given)).hints == []


def test_right_labels_give_no_hint(tmp_path: Path) -> None:
    assert check_data(opened(tmp_path, TRUE)).hints == []
    outside = TRUE.copy()
    outside[0, 0] = (95, 20)  # a point that somebody placed outside
    assert check_data(opened(tmp_path, outside)).hints == []
    for write in (write_coco, write_pts, write_points_csv, write_dlc):
        path = write(tmp_path / write.__name__)
        assert check_data(open_dataset(path)).hints == [], path


def test_points_files_from_0_that_are_read_from_1(tmp_path: Path) -> None:
    folder = write_pts(tmp_path, index_base=0)
    (folder / "a.pts").write_text("0 5\n3 4\n5 6\n")
    (hint,) = check_data(PTS(folder)).hints
    assert "{name: pts, index_base: 0}" in hint
    assert check_data(PTS(folder, index_base=0)).hints == []


def test_images_that_are_not_as_they_should_be(tmp_path: Path, kpnet: Run) -> None:
    noise = RNG.integers(0, 255, (8, 8), np.uint8)
    for name, image in {"good": noise, "grey": np.full((8, 8), 90, np.uint8), "dark": noise // 16}.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
    cv2.imwrite(str(tmp_path / "deep.png"), noise.astype(np.uint16) * 16 + 1)  # 12 bits
    done = kpnet("data", "check", ".", "--sheet", "s.png")
    assert "    1 images have a single value everywhere: grey.png" in done.out
    assert "    1 images are nearly black: dark.png" in done.out
    assert "    1 images of 16 bits are nearly black, and their values fill 12 bits: deep.png" in done.out
    assert "{name: folder, bits: 12}" in done.out
    again = kpnet("data", "check", ".", "--sheet", "t.png", "--format", "{name: folder, bits: 12}")
    assert "16 bits" not in again.out
    assert "deep.png = good.png" in again.out, "with all its bits it is the same image"


def test_what_was_assumed_about_a_table_is_said(tmp_path: Path, kpnet: Run) -> None:
    path = write_points_csv(tmp_path)
    path.write_text(path.read_text().replace("image", "filename").replace(",", ";"))
    done = kpnet("data", "check", path.name, "--sheet", "s.png")
    assert done.code == 0, done
    assert "    its cells are separated by semicolons" in done.out
    assert type(open_dataset(path)) is PointsCSV
