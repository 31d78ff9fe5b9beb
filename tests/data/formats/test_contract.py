"""Every format gives the same samples: points that lie on their dots, named, and grouped by image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.format_files import (
    NAMES,
    PICTURES,
    brightest,
    every_instance,
    write_coco,
    write_dlc,
    write_points_csv,
    write_pts,
)

from kpnet.config.loading import load_config
from kpnet.config.schema import DataConfig, ModelConfig
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data import COCO, NPZ, PTS, DeepLabCut, ImageFolder, KeypointDataset, PointsCSV
from kpnet.data.build import build_dataset, build_splits

FIRST = [(name, np.array(instances[0], float)) for name, _, instances in PICTURES]  # one a picture
SKELETON = Skeleton.load(list(NAMES))


def npz(folder: Path) -> NPZ:
    """An npz holds images of one size, so these are not the images of the other formats."""
    from support.format_files import dots

    folder.mkdir()
    xy = np.stack([points for _, points in every_instance()])
    on = {name: np.concatenate([np.array(each) for each in instances]) for name, _, instances in PICTURES}
    images = np.stack([dots((70, 90), on[name]) for name, _ in every_instance()])
    np.savez(folder / "a.npz", images=images, keypoints=xy, names=NAMES, image_names=["a", "a", "b", "c"])
    return NPZ(folder / "a.npz")


OPENED: dict[str, Callable[[Path], KeypointDataset]] = {
    "coco": lambda folder: COCO(write_coco(folder)),
    "pts": lambda folder: PTS(write_pts(folder), skeleton=SKELETON),
    "pts without braces": lambda folder: PTS(write_pts(folder, braces=False), skeleton=SKELETON),
    "pts from 0": lambda folder: PTS(write_pts(folder, index_base=0), skeleton=SKELETON, index_base=0),
    "deeplabcut": lambda folder: DeepLabCut(write_dlc(folder)),
    "deeplabcut in three cells": lambda folder: DeepLabCut(write_dlc(folder, split=True)),
    "points_csv": lambda folder: PointsCSV(write_points_csv(folder)),
    "points_csv with numbers": lambda folder: PointsCSV(write_points_csv(folder, numbers=True), skeleton=SKELETON),
    "npz": npz,
}


@pytest.mark.parametrize("name", OPENED)
def test_points_lie_on_their_dots(name: str, tmp_path: Path) -> None:
    data = OPENED[name](tmp_path / "data")
    expected = every_instance() if name.split()[0] in ("coco", "points_csv", "npz") else FIRST
    assert data.skeleton.names == NAMES
    assert data.skeleton.pairs == (("left_ear", "right_ear"),)
    assert len(data) == len(expected)
    assert np.array_equal(data.labels(), np.stack([np.isfinite(xy).all(-1) for _, xy in expected]))
    for index, (picture, xy) in enumerate(expected):
        image, points = data.read(index)
        assert np.allclose(points, xy, atol=1e-4, equal_nan=True)
        for point in points[np.isfinite(points).all(-1)]:
            assert np.abs(brightest(image, point) - point).max() < 0.1
        assert picture[0] in data.image_name(index)
        points[:] = 0  # a copy: the next reading is as before
        assert np.allclose(data.read(index)[1], xy, atol=1e-4, equal_nan=True)
    same = [data.image_name(index) for index in range(len(data))]
    assert (same[0] == same[1]) is (len(expected) == 4)
    numbers = [data.instance(index) for index in range(len(data))]
    assert numbers == ([0, 1, 0, 0] if len(expected) == 4 else [0, 0, 0])


@pytest.mark.parametrize("name", OPENED)
def test_as_a_models_input(name: str, tmp_path: Path) -> None:
    """Through the config, letterboxed: the dot is where the normalised point says."""
    OPENED[name](tmp_path / "data")
    form, source = {
        "coco": ("coco", "heads.json"),
        "deeplabcut": ("deeplabcut", "."),
        "points_csv": ("points_csv", "points.csv"),
        "npz": ("npz", "a.npz"),
        "pts": ({"name": "pts", "index_base": 0 if "0" in name else 1}, "."),
    }[name.split()[0]]
    model = {"backbone": "conv_sandwich", "head": "heatmap", "in_channels": 1, "input_size": 128}
    settings = {"format": form, "root": str(tmp_path / "data"), "train": source, "skeleton": list(NAMES)}
    data, _ = build_splits(load_config({"model": model, "data": settings}), (0, 0))
    for index in range(len(data)):
        sample = data[index]
        assert sample["image"].shape == (1, 128, 128)
        for point in sample["keypoints"][sample["visible"]].double().numpy():
            pixel = ((point + 1) * 128 - 1) / 2
            assert np.abs(brightest(sample["image"][0].numpy(), pixel) - pixel).max() < 0.3


def test_points_are_matched_by_name_in_the_order_asked_for(tmp_path: Path) -> None:
    write_coco(tmp_path)
    asked = Skeleton.load(["right_ear", "nose"])
    model = ModelConfig(backbone="conv_sandwich", head="heatmap", input_size=(128, 128))
    data = build_dataset(DataConfig(format="coco", root=str(tmp_path)), model, "heads.json", skeleton=asked)
    assert data.skeleton.names == ("right_ear", "nose")
    assert data.read(0)[1].tolist() == [[14, 40], [20.25, 12.5]]
    assert data.visibility(0).tolist() == [1, 2]
    assert data.box(1) is not None


def test_complete_only_asks_for_the_skeletons_points(tmp_path: Path) -> None:
    path = write_coco(tmp_path)
    assert len(COCO(path, complete_only=True)) == 3
    assert len(COCO(path, complete_only=True, skeleton=Skeleton.load(["nose"]))) == 4
    last = PointsCSV(write_points_csv(tmp_path / "csv"), complete_only=True)
    assert [last.image_name(i) for i in range(len(last))] == ["a.png", "a.png", "b.png"]


def test_a_folder_of_pictures_has_no_labels(tmp_path: Path) -> None:
    data = ImageFolder(write_pts(tmp_path), skeleton=SKELETON)
    assert [data.image_name(i) for i in range(3)] == ["a.png", "b.png", "c.png"]
    assert not data.labels().any()
    assert data.read(0)[0].shape == (60, 80, 3)
    (tmp_path / "none").mkdir()
    with pytest.raises(KpnetError, match="none: found no images"):
        ImageFolder(tmp_path / "none")


BAD_OPTIONS: list[tuple[Any, str]] = [
    ({"name": "pts", "index_bse": 0}, r'data format "pts": unknown key "index_bse" \(did you mean "index_base"\?\)'),
    ({"name": "pts", "index_base": 2}, 'data format "pts": index_base: .* found 2'),
    ({"name": "coco", "seed": 2}, 'unknown key "seed"'),
    ({"nam": "coco"}, 'data.format: expected a name or a mapping with a "name"'),
    ("ccoo", r'unknown data format "ccoo" \(did you mean "coco"\?\)'),
]


@pytest.mark.parametrize(("form", "message"), BAD_OPTIONS)
def test_options_are_checked(form: Any, message: str, tmp_path: Path) -> None:
    model = ModelConfig(backbone="conv_sandwich", head="heatmap")
    with pytest.raises(KpnetError, match=message) as caught:
        build_dataset(DataConfig(format=form, root=str(tmp_path)), model, "x")
    assert "\n" not in str(caught.value)
