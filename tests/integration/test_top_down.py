"""Boxes from the command line: training, evaluation and prediction of several instances an image."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from support.console import Run

from kpnet import build_model, load_model
from kpnet.config.loading import load_config
from kpnet.config.schema import Fold
from kpnet.data import COCO
from kpnet.data.wrappers.subset import Subset, split_fold
from kpnet.evaluation.run_data import evaluation_dataset
from kpnet.experiments.plan import fingerprint
from kpnet.inference.inputs import dataset_images

PEOPLE = [("a.png", (20.0, 30.0)), ("a.png", (62.0, 28.0)), ("sub/b.png", (40.0, 20.0))]


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """COCO JSON of two images with two and one instances, of two points each."""
    folder = tmp_path / "people"
    (folder / "sub").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
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
    assert (measures["images"], measures["samples"]) == (2, 3)
    assert measures == json.loads(kpnet("evaluate", run, "--json").out)
    scale = 1.25 * 20 / 32  # of a crop's pixels
    assert measures["image_pixels"]["mre_px"] == pytest.approx(measures["mre_px"] * scale, rel=1e-3)
    done = kpnet("predict", run, people, "--out", tmp_path / "out", "--draw")
    assert done.code == 0, done
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert list(table.groupby("image", sort=False).instance.nunique()) == [2, 1]
    assert list(table.name.unique()) == ["left_end", "right_end"]
    for _, rows in table.groupby(["image", "instance"]):
        image, instance = (rows[column].iloc[0] for column in ("image", "instance"))
        x, y = [place for name, place in PEOPLE if image.endswith(f":{name}")][instance]
        assert (rows.x - x).abs().max() < 13, "within its crop"
        assert (rows.y - y).abs().max() < 13
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"people_a.png", "people_sub_b.png"}


def test_a_saved_model_of_crops_knows_that_it_is_one(run: Path, people: Path, kpnet: Run, tmp_path: Path) -> None:
    """Without its run: the same measures and predictions, and a word where it is given no box."""
    saved = tmp_path / "saved"
    shutil.copytree(run / "final", saved)
    assert json.loads(kpnet("evaluate", saved, people, "--json").out) == json.loads(
        kpnet("evaluate", run, people, "--json").out
    )
    for model in (run, saved):
        done = kpnet("predict", model, people, "--out", tmp_path / model.name)
        assert (done.code, done.err) == (0, "")
    tables = [(tmp_path / model.name / "predictions.csv").read_text() for model in (run, saved)]
    assert tables[0] == tables[1]
    done = kpnet("predict", saved, people.parent / "a.png", people.parent / "sub", "--out", tmp_path / "whole")
    assert done.code == 0
    assert "saved was trained on crops around boxes; inputs without boxes, used whole: 2;" in done.err


def test_a_model_of_whole_images_leaves_boxes_alone(people: Path, trained: Path, kpnet: Run, tmp_path: Path) -> None:
    assert kpnet("predict", trained, people, "--out", tmp_path / "out").code == 0
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert list(table.groupby("image", sort=False).instance.nunique()) == [1, 1]


def test_a_box_off_its_image_leaves_the_other_predictions(run: Path, people: Path, kpnet: Run, tmp_path: Path) -> None:
    values = json.loads(people.read_text())
    values["annotations"][0]["bbox"] = [200, 200, 10, 10]
    for image in values["images"]:  # so that reading cannot tell
        del image["width"], image["height"]
    del values["annotations"][2]["bbox"]
    people.write_text(json.dumps(values))
    done = kpnet("predict", run, people, "--out", tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert len(table[table.image.str.endswith(":a.png")]) == 2, "the second person of the first image"
    assert done.code == 1, done
    assert "a.png: 1 of 2 instances have no box and are skipped" in done.err
    assert "inputs without boxes, used whole: 1;" in done.err, "the picture whose person lost its box"


def test_wide_writes_no_several_people(run: Path, people: Path, kpnet: Run) -> None:
    values = json.loads(people.read_text())
    for image in values["images"]:  # as --pseudo-labels wants them
        image["height"] = 90
        cv2.imwrite(str(people.parent / image["file_name"]), np.zeros((90, 90), np.uint8))
    people.write_text(json.dumps(values))
    done = kpnet("predict", run, people, "--pseudo-labels", "--out", "wide")
    assert done.code == 1, "the image of one person is written"
    assert "a.png: 2 instances; --pseudo-labels writes one for each image" in done.err


def test_folds_keep_the_people_of_an_image_together(people: Path) -> None:
    values = json.loads(people.read_text())
    for number in range(3, 9):
        values["images"].append({"id": number, "file_name": f"{number}.png", "width": 90, "height": 60})
        cv2.imwrite(str(people.parent / f"{number}.png"), np.zeros((60, 90), np.uint8))
        for _ in range(number % 3 + 1):
            more = {**values["annotations"][0], "id": len(values["annotations"]) + 1, "image_id": number}
            values["annotations"].append(more)
    people.write_text(json.dumps(values))
    data = COCO(people)
    held: list[str] = []
    for index in range(4):
        train, val = split_fold(data, Fold(index=index, of=4))
        names = [{data.image_name(int(i)) for i in part} for part in (train, val)]
        assert names[0].isdisjoint(names[1])
        assert sorted([*train, *val]) == list(range(len(data)))
        held += sorted(names[1])
    assert sorted(held) == sorted({data.image_name(i) for i in range(len(data))})
    assert dataset_images(Subset(data, np.array([1, 2])), "val", "val"), "an image's second person alone"


def test_comparisons_know_a_folder_of_data_by_what_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "faces"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "a.png"), np.zeros((8, 8), np.uint8))
    (folder / "a.pts").write_text("version: 1\nn_points: 1\n{\n3 4\n}\n")
    model = {"backbone": "conv_sandwich", "head": "heatmap"}
    data = {"format": "pts", "root": str(tmp_path / "data"), "train": "faces"}
    config = load_config({"model": model, "data": data})
    first = fingerprint(config)
    assert fingerprint(config) == first
    (folder / "a.pts").write_text("version: 1\nn_points: 1\n{\n3 5\n}\n")
    second = fingerprint(config)
    cv2.imwrite(str(folder / "a.png"), np.zeros((80, 8), np.uint8))
    assert len({first, second, fingerprint(config)}) == 3


@pytest.mark.parametrize("by", ["box", "points"])
def test_what_the_crops_are_about_is_saved(by: str, people: Path, tmp_path: Path) -> None:
    """And forgotten where a run's config trains on whole images."""
    values: dict[str, Any] = {
        "model": {"backbone": {"name": "conv_sandwich", "channels": [4, 8]}, "head": "heatmap", "in_channels": 1},
        "data": {"format": "coco", "root": str(people.parent), "train": "people.json", "crop": by},
    }
    config = load_config(values)
    model = build_model(config, skeleton=COCO(people).skeleton)
    model.save(tmp_path / "saved")
    data = evaluation_dataset(tmp_path / "saved", people, load_model(tmp_path / "saved"))
    assert data.cropper is not None
    assert data.cropper.by == by
    values["model"], values["data"]["crop"] = config.model.model_dump(), None
    assert load_config(values).model.crop is None
