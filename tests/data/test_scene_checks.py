"""What a finder cannot learn from is named with an example and a remedy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from support.format_files import write_pictures

from kpnet.data import PointsCSV
from kpnet.data.scene_checks import describe_scenes
from kpnet.data.wrappers.scenes import Scenes

HEAD = "image,nose_x,nose_y,left_ear_x,left_ear_y,right_ear_x,right_ear_y"


def scenes(folder: Path, *rows: str, size: int = 40) -> Scenes:
    write_pictures(folder)
    (folder / "points.csv").write_text("\n".join([HEAD, *rows]) + "\n")
    return Scenes(PointsCSV(folder / "points.csv"), (size, size), 1)


def test_sound_data_need_no_line(tmp_path: Path) -> None:
    assert describe_scenes(scenes(tmp_path, "a.png,10,10,30,12,14,40", "a.png,50,20,70,22,60,44"), 4) == []


def test_instances_smaller_than_a_cell(tmp_path: Path) -> None:
    """a.png has 80x60 pixels, of which 40x40 leave a half: 6 px are 3, smaller than a cell of 4."""
    data = scenes(tmp_path, "a.png,10,10,16,12,14,15", "a.png,50,20,70,22,60,44")
    (line,) = describe_scenes(data, 4)
    assert line == (
        "1 of 2 instances are smaller than a cell of the centre map, 4 px of the 40x40 px to which images are resized, "
        "such as a.png #0 of 6x5 px, which are 3 px there: with stride 2 or input_size [64, 64] all would fill one"
    )
    assert describe_scenes(data, 2) == []
    assert describe_scenes(Scenes(data.dataset, (64, 64), 1), 4) == []


def test_instances_larger_than_the_image(tmp_path: Path) -> None:
    (line,) = describe_scenes(scenes(tmp_path, "a.png,-20,10,90,12,14,40", "b.png,10,10,30,12,14,30"), 4)
    assert line.startswith("1 of 2 instances are larger than their image, such as a.png #0 of 110x30 px on 80x60: are")


def test_instances_of_a_single_point(tmp_path: Path) -> None:
    data = scenes(tmp_path, "a.png,10,10,30,12,14,30", "b.png,10,10,,,,")
    (line,) = describe_scenes(data, 4)
    assert line.startswith("1 instances have no box, and points that span no area: b.png #0; a square of 20 px")
    np.testing.assert_array_equal(data.truth(1).boxes, [[0, 0, 20, 20]])


def test_an_instance_with_two_labels(tmp_path: Path) -> None:
    """Other people's labels of it differ by little; the very same ones are reported when the file is opened."""
    data = scenes(tmp_path, "a.png,10,10,30,12,14,40", "a.png,10.2,10,30,12.2,14,40", "a.png,10,10,30,12,14,40")
    (line,) = describe_scenes(data, 4)
    assert line.startswith("2 pairs of instances have nearly the same points: a.png #0 and #1, a.png #1 and #2; is")
