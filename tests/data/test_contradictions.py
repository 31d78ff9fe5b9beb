"""What `kpnet data check` says of boxes beside their points, and of images that EXIF turns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from support.format_files import coco_values, write_coco

from kpnet.data import COCO, KeypointDataset, PointsCSV
from kpnet.data.check import check_data
from kpnet.data.contradictions import find_contradictions


def found(data: KeypointDataset) -> list[str]:
    return find_contradictions(data, np.stack([data.read(i)[1] for i in range(len(data))]))


def turned(path: Path, size: tuple[int, int], orientation: int = 6) -> None:
    """An image stored as (H, W)."""
    tag = Image.Exif()
    tag[ExifTags.Base.Orientation] = orientation
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)).save(path, exif=tag)


def test_good_data_has_none(tmp_path: Path) -> None:
    assert found(COCO(write_coco(tmp_path))) == []


@pytest.mark.parametrize("box", [[60, 40, 15, 15], [0, 0, 8, 8]])
def test_points_outside_their_box(tmp_path: Path, box: list[float]) -> None:
    values = coco_values()
    values["annotations"][0]["bbox"] = box
    data = COCO(write_coco(tmp_path, values))
    (line,) = found(data)
    assert line.startswith("1 of 4 samples have most of their points outside their box: a.png #0;")
    assert line in check_data(data).notes


def test_a_box_that_cuts_a_point_is_none(tmp_path: Path) -> None:
    values = coco_values()
    values["annotations"][0]["bbox"] = [13, 11, 30, 30]  # two of three are in it
    assert found(COCO(write_coco(tmp_path, values))) == []


def coco(folder: Path, stated: tuple[int, int], xy: tuple[float, float], **options: Any) -> COCO:
    """One point on an image of 40x60 (height and width) as stored, and 60x40 as shown."""
    turned(folder / "a.png", (40, 60))
    height, width = stated
    values = {
        "images": [{"id": 1, "file_name": "a.png", "height": height, "width": width}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "keypoints": [*xy, 2]}],
        "categories": [{"id": 1, "name": "thing", "keypoints": ["a"]}],
    }
    (folder / "a.json").write_text(json.dumps(values))
    return COCO(folder / "a.json", **options)


@pytest.mark.parametrize(
    ("stated", "xy", "options", "parts"),
    [
        ((40, 60), (30, 50), {}, ("read as stored, and 1 of their 1", "as shown, 0", "exif: true")),
        ((60, 40), (50, 30), {}, ("read as shown, and 1 of their 1", "as stored, 0", "exif: false")),
        ((40, 60), (50, 30), {}, ("read as stored; if", "as shown, set the format's exif: true")),
        ((60, 40), (30, 50), {}, ("read as shown; if", "as stored, set the format's exif: false")),
        ((40, 60), (30, 50), {"exif": True}, ("read as shown; if", "exif: false")),
        ((40, 60), (50, 30), {"exif": True}, ("read as shown, and 1", "as stored, 0", "exif: false")),
    ],
)
def test_labels_of_a_turned_image(
    tmp_path: Path, stated: Any, xy: Any, options: dict[str, Any], parts: tuple[str, ...]
) -> None:
    data = coco(tmp_path, stated, xy, **options)
    (line,) = found(data)
    assert line.startswith("1 images are turned by EXIF, such as a.png; they are ")
    assert all(part in line for part in parts), line
    if " outside;" in line:  # the option that is named reads it right
        other = coco(tmp_path, stated, xy, exif="true" in parts[-1])
        assert not check_data(other).outside.any()


@pytest.mark.parametrize("exif", [True, False])
def test_a_table_says_no_sizes(tmp_path: Path, exif: bool) -> None:
    turned(tmp_path / "a.png", (40, 60))
    xy = "50,30" if exif else "30,50"
    (tmp_path / "points.csv").write_text(f"image,nose_x,nose_y\na.png,{xy}\n")
    (line,) = found(PointsCSV(tmp_path / "points.csv", exif=exif))
    assert f"set the format's exif: {str(not exif).lower()}" in line
    assert "1 of their 1 samples" in line
