"""Coordinates of other conventions are read right in every format, and never by themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.format_files import (
    NAMES,
    PICTURES,
    coco_values,
    dlc_lines,
    write_coco,
    write_dlc,
    write_pictures,
    write_pts,
)

from kpnet.config.schema import DataConfig
from kpnet.data import DATASETS
from kpnet.data.formats.conventions import convert_points

FIRST = [np.array(instances[0], float) for _, _, instances in PICTURES]
CHANGES: dict[str, tuple[dict[str, Any], Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "missing": ({"missing": [-1, 0]}, lambda xy, size: np.where(np.isnan(xy), -1, xy)),
    "normalized": ({"normalized": True}, lambda xy, size: xy / size),
    "index_base": ({"index_base": 1}, lambda xy, size: xy + 1),
    "swap_xy": ({"swap_xy": True}, lambda xy, size: xy[:, ::-1]),
    "all": (
        {"missing": 0, "normalized": True, "swap_xy": True},
        lambda xy, size: np.nan_to_num(xy / size)[:, ::-1],
    ),
}


def points_csv(folder: Path, points: list[np.ndarray]) -> str:
    write_pictures(folder / "images")
    rows = [[name, *map(str, xy.ravel().tolist())] for (name, *_), xy in zip(PICTURES, points, strict=True)]
    header = ["image", *(f"{name}_{axis}" for name in NAMES for axis in "xy")]
    (folder / "a.csv").write_text("\n".join(",".join(row) for row in [header, *rows]))
    return "a.csv"


def deeplabcut(folder: Path, points: list[np.ndarray]) -> str:
    write_dlc(folder)
    lines = dlc_lines("v1")[:3]
    lines += [",".join([name, *map(str, xy.ravel().tolist())]) for (name, *_), xy in zip(PICTURES, points, strict=True)]
    (folder / "labeled-data" / "v1" / "CollectedData_me.csv").write_text("\n".join(lines))
    return "."


def pts(folder: Path, points: list[np.ndarray]) -> str:
    write_pts(folder)
    for (name, *_), xy in zip(PICTURES, points, strict=True):
        (folder / name).with_suffix(".pts").write_text("\n".join(f"{x} {y}" for x, y in xy.tolist()))
    return "."


def coco(folder: Path, points: list[np.ndarray]) -> str:
    values = coco_values()
    del values["annotations"][1]
    for annotation, xy in zip(values["annotations"], points, strict=True):
        annotation["keypoints"] = [v for x, y in xy.tolist() for v in ([0, 0, 0] if x != x else [x, y, 2])]
        del annotation["bbox"]
    write_coco(folder, values)
    return "heads.json"


WRITERS = {"points_csv": points_csv, "deeplabcut": deeplabcut, "pts": pts, "coco": coco}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("form", WRITERS)
def test_the_option_gives_the_points_in_pixels(tmp_path: Path, form: str, change: str) -> None:
    options, write = CHANGES[change]
    sizes = [np.array(size[::-1], float) for _, size, _ in PICTURES]
    source = WRITERS[form](tmp_path, [write(xy, size) for xy, size in zip(FIRST, sizes, strict=True)])
    given = {"index_base": 0} | options if form == "pts" else options
    data = DATASETS.find(form).open(DataConfig(root=str(tmp_path)), source, None, **given)
    for index, xy in enumerate(FIRST):
        np.testing.assert_allclose(data.read(index)[1], xy, atol=1e-9)


def test_missing_values_are_compared_exactly_and_before_all_else() -> None:
    points = np.array([[[0.0, 0], [0, 5], [1, 1], [-1, -1]]])
    found = convert_points(points, None, missing=[0, -1], index_base=1)
    nowhere = [np.nan, np.nan]
    np.testing.assert_array_equal(found, np.array([[nowhere, [-1, 4], [0, 0], nowhere]]))
    np.testing.assert_array_equal(convert_points(points, None), points)
