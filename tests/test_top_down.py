"""Boxes from the command line: training, evaluation and prediction of several instances an image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from console import Run

PEOPLE = [("a.png", (20.0, 30.0)), ("a.png", (62.0, 28.0)), ("sub/b.png", (40.0, 20.0))]


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """COCO JSON of two images with two and one instances, of two points each."""
    folder = tmp_path / "people"
    (folder / "sub").mkdir(parents=True)
    images, annotations = [], []
    for number, name in enumerate(("a.png", "sub/b.png")):
        pixels = np.zeros((60, 90), np.uint8)
        images.append({"id": number + 1, "file_name": name, "width": 90, "height": 60})
        for owner, (x, y) in PEOPLE:
            if owner == name:
                cv2.circle(pixels, (int(x), int(y)), 6, 255, -1)
                points = [x - 4, y, 2, x + 4, y, 2]
                box = [x - 9.5, y - 9.5, 20, 20]
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": number + 1, "category_id": 1, "keypoints": points,
                     "num_keypoints": 2, "bbox": box, "area": 300, "iscrowd": 0}
                )  # fmt: skip
        cv2.imwrite(str(folder / name), pixels)
    category = {"id": 1, "name": "blob", "keypoints": ["left_end", "right_end"], "skeleton": [[1, 2]]}
    path = folder / "people.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [category]}))
    return path


@pytest.fixture
def run(people: Path, tmp_path: Path, kpnet: Run) -> Path:
    """Trained for an epoch on crops about the boxes."""
    config: dict[str, Any] = {
        "model": {"backbone": {"name": "conv_sandwich", "channels": [4, 8]}, "head": "heatmap", "in_channels": 1,
                  "input_size": 32},
        "data": {"format": "coco", "root": str(people.parent), "train": "people.json", "val": "people.json",
                 "crop": {"by": "box", "shift": 0.1, "scale": 0.1}},
        "train": {"epochs": 1, "batch_size": 2},
        "trainer": {"accelerator": "cpu"},
    }  # fmt: skip
    (tmp_path / "top_down.yaml").write_text(json.dumps(config))
    assert kpnet("train", tmp_path / "top_down.yaml", "--out", tmp_path / "run").code == 0
    return tmp_path / "run"


def test_boxes_there_and_back(run: Path, people: Path, kpnet: Run, tmp_path: Path) -> None:
    """Training, evaluation and prediction on boxes; predictions come back by image."""
    measures = json.loads(kpnet("evaluate", run, people, "--json").out)
    assert measures["images"] == 3
    assert measures == json.loads(kpnet("evaluate", run, "--json").out)
    scale = 1.25 * 20 / 32  # of a crop's pixels
    assert measures["original"]["mre_px"] == pytest.approx(measures["mre_px"] * scale, rel=1e-3)
    done = kpnet("predict", run, people, "--out", tmp_path / "out", "--draw")
    assert done.code == 0, done
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert list(table.groupby("image", sort=False).instance.nunique()) == [2, 1]
    assert list(table.name.unique()) == ["left_end", "right_end"]
    for (image, instance), rows in table.groupby(["image", "instance"]):
        x, y = [place for name, place in PEOPLE if image.endswith(f":{name}")][instance]
        assert (rows.x - x).abs().max() < 13, "within its crop"
        assert (rows.y - y).abs().max() < 13
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"people_a.png", "people_sub_b.png"}


def test_a_model_of_whole_images_leaves_boxes_alone(people: Path, trained: Path, kpnet: Run, tmp_path: Path) -> None:
    assert kpnet("predict", trained, people, "--out", tmp_path / "out").code == 0
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert list(table.groupby("image", sort=False).instance.nunique()) == [1, 1]
