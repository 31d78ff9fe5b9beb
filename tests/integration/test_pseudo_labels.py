"""Incomplete labels from end to end: predicted, filled in, weighted and trained on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import NAMES, SIDE, dot_image
from typer.testing import CliRunner, Result

from kpnet import load_model
from kpnet.cli import entry as cli
from kpnet.config.loading import load_config
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data import KaggleCSV
from kpnet.data.build import build_train
from kpnet.inference.inputs import InputImage
from kpnet.inference.prediction import Prediction
from kpnet.inference.tables import LabelTable
from kpnet.training.supervised import train

SKELETON = Skeleton.load(list(NAMES))


def kpnet(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [*map(str, arguments)])


def refused(*arguments: object) -> str:
    error = kpnet(*arguments).exception
    assert isinstance(error, KpnetError)
    assert "\n" not in str(error)
    return str(error)


@pytest.fixture
def partial(make_csv: Callable[[int, int], str], tmp_path: Path) -> Path:
    """Four rows: row 0 complete, row 1 without its nose, row 2 without labels, row 3 with a nose of weight 0.25."""
    path = tmp_path / "partial.csv"
    path.write_text(make_csv(4, 3))
    table = pd.read_csv(path)
    table.loc[1, ["nose_x", "nose_y"]] = np.nan
    table.loc[2, [c for c in table.columns if c != "Image"]] = np.nan
    table["nose_weight"] = [np.nan, np.nan, np.nan, 0.25]
    table.loc[0, "nose_x"] = 16.123456789  # more digits than a prediction is given
    table.to_csv(path, index=False)
    return path


def test_predictions_fill_in_what_is_missing_and_read_back_as_they_were(
    trained: Path, partial: Path, tmp_path: Path
) -> None:
    done = kpnet("predict", trained, partial, "--pseudo-labels", "--out", tmp_path / "pseudo")
    assert (done.exit_code, done.output) == (0, f"4 image(s): {tmp_path / 'pseudo' / 'labels.csv'}\n")
    assert {p.name for p in (tmp_path / "pseudo").iterdir()} == {"labels.csv", ".kpnet"}
    kpnet("predict", trained, partial, "--out", tmp_path / "long")
    long = pd.read_csv(tmp_path / "long" / "predictions.csv")
    assert list(long.name) == list(NAMES) * 4
    predicted = long[["x", "y", "confidence"]].to_numpy().reshape(4, 3, 3)

    source = KaggleCSV(partial, skeleton=SKELETON)
    back = KaggleCSV(tmp_path / "pseudo" / "labels.csv", skeleton=SKELETON)
    assert np.array_equal(back.images, source.images)
    given = source.labels()
    assert given.tolist() == [[True] * 3, [True, True, False], [False] * 3, [True] * 3]
    assert np.array_equal(back.keypoints[given], source.keypoints[given])  # to the last digit
    assert back.weights[given].tolist() == [*[1.0] * 7, 0.25]
    assert np.array_equal(back.keypoints[~given], predicted[~given][:, :2])
    assert np.array_equal(back.weights[~given], predicted[~given][:, 2])
    assert (back.weights[~given] < 1).all()
    assert [back.image_name(i) for i in range(4)] == [f"partial_{i}" for i in range(4)]  # as --draw names them


def test_a_point_of_no_confidence_is_a_missing_one(tmp_path: Path) -> None:
    table = LabelTable(("a", "b"), 1)
    points = np.array([[[1.00004, 2], [3, 4]]])
    prediction = Prediction("p", ("a", "b"), points, np.array([[0.00004, 0.87654]], np.float32), None)
    with table.writing(tmp_path) as path:
        table.add(
            prediction, InputImage("p", Path("p.png"), lambda: np.zeros((4, 4), np.uint8)), np.zeros((4, 4), np.uint8)
        )
    data = KaggleCSV(path)
    assert data.labels().tolist() == [[False, True]]
    assert data.weights.tolist() == [[0, 0.8765]]


def test_pictures_keep_their_pixels(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    grey = np.stack([dot_image(np.array([[10.0, 12], [20, 12], [15, 20]]) + i, 40) for i in range(2)])
    for name, image in zip("ab", grey, strict=True):
        cv2.imwrite(str(tmp_path / "photos" / f"{name}.png"), image)
    colour = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "photos" / "c.png"), colour)
    assert kpnet("predict", trained, tmp_path / "photos", "--pseudo-labels", "--out", tmp_path / "p").exit_code == 0
    back = KaggleCSV(tmp_path / "p" / "labels.csv", skeleton=SKELETON)
    assert np.array_equal(back.images[:2], grey)
    assert np.array_equal(back.images[2], cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY))  # what the grey model saw
    kpnet("predict", trained, tmp_path / "photos", "--out", tmp_path / "p")
    long = pd.read_csv(tmp_path / "p" / "predictions.csv")
    assert np.array_equal(back.keypoints.reshape(-1, 2), long[["x", "y"]])  # pixels of the 40 px original


def test_what_the_layout_cannot_hold_is_refused(trained: Path, partial: Path, tmp_path: Path) -> None:
    for name, size in (("oblong", (30, 40)), ("small", (30, 30)), ("tall", (40, 30))):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros(size, np.uint8))
    oblong, small, out = tmp_path / "oblong.png", tmp_path / "small.png", ("--pseudo-labels", "--out", tmp_path / "p")
    assert "oblong.png: 40x30 pixels; --pseudo-labels writes square images of one size: crop" in refused(
        "predict", trained, oblong, *out
    )
    assert "give one of them" in refused("predict", trained, partial, "--json", *out)
    assert not (tmp_path / "p").exists()
    done = kpnet("predict", trained, partial, small, *out)
    assert done.exit_code == 1
    assert (
        f"small.png: 30x30 pixels; --pseudo-labels writes square images of one size, as the first is {SIDE}x{SIDE}"
        in done.stderr
    )
    assert len(KaggleCSV(tmp_path / "p" / "labels.csv")) == 4


def test_colour_for_a_colour_model_is_refused_and_grey_is_not(tmp_path: Path) -> None:
    table, image = LabelTable(("a",), 3), np.full((4, 4, 3), 7, np.uint8)
    prediction = Prediction("p", ("a",), np.zeros((1, 1, 2)), np.ones((1, 1)), None)
    with table.writing(tmp_path):
        table.add(prediction, InputImage("p", Path("p.png"), lambda: image), image)
        image[2, 2, 1] = 8
        with pytest.raises(KpnetError, match="p: a colour image for a model that uses colour"):
            table.add(prediction, InputImage("p", Path("p.png"), lambda: image), image)


def test_a_head_without_confidence_is_refused(tiny: dict[str, Any], data: Path, tmp_path: Path) -> None:
    from kpnet.models.build import assemble

    tiny["model"]["head"] = "regression"
    assemble(load_config(tiny).model, SKELETON).save(tmp_path / "model")
    message = refused("predict", tmp_path / "model", data / "val.csv", "--pseudo-labels", "--out", tmp_path / "p")
    assert "this head gives none: see kpnet calibrate" in message


def test_trained_on_with_true_labels(
    trained: Path, partial: Path, data: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    kpnet("predict", trained, partial, "--pseudo-labels", "--out", data)
    tiny["data"]["train"] = ["train.csv", {"file": "labels.csv", "weight": 0.5}]
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    done = kpnet("train", tmp_path / "tiny.yaml", "--out", tmp_path / "run")
    assert done.exit_code == 0
    assert "no training sample" not in done.output
    assert load_config(tmp_path / "run" / "config.yaml").data.train == load_config(tiny).data.train
    assert kpnet("train", tmp_path / "tiny.yaml", "--out", tmp_path / "run", "--resume").exit_code == 0
    message = refused("calibrate", tmp_path / "run", data / "labels.csv")
    assert "was trained on it" in message
    assert kpnet("train", tmp_path / "tiny.yaml", "--overfit", 1).exit_code in (0, 1)


def test_training_warns_of_points_without_a_label_and_refuses_a_file_without_one(
    partial: Path, data: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copy(partial, data / "partial.csv")
    table = pd.read_csv(data / "train.csv")
    table[["nose_x", "nose_y", "right_eye_x", "right_eye_y"]] = np.nan
    table.to_csv(data / "train.csv", index=False)
    tiny["train"]["epochs"] = 1
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    done = kpnet("train", tmp_path / "tiny.yaml", "--out", tmp_path / "run")
    assert done.exit_code == 0
    assert "warning: no training sample has a label for right_eye, nose: untrained points\n" in done.output
    table[["left_eye_x", "left_eye_y"]] = np.nan
    table.to_csv(data / "train.csv", index=False)
    arguments = ("train", tmp_path / "tiny.yaml", "data.train=[partial.csv, train.csv]", "--out", tmp_path / "other")
    assert "train.csv: none of its 8 samples has a label" in refused(*arguments)
    assert not (tmp_path / "other").exists()


def test_the_epochs_loss_is_over_the_labelled_points_of_all_files(
    tiny: dict[str, Any], partial: Path, data: Path, tmp_path: Path
) -> None:
    """With steps of no size, against numpy: the sum of weight times error over the number of labelled points."""
    shutil.copy(partial, data / "partial.csv")
    tiny["data"]["train"] = ["train.csv", {"file": "partial.csv", "weight": 0.3}]
    tiny["model"] |= {"backbone": {"name": "conv_sandwich", "channels": [4]}}
    tiny["model"]["head"] = {"name": "regression", "hidden": [], "loss": {"l1": 1.0}}
    tiny["train"] = {"epochs": 1, "batch_size": 5, "optimizer": {"name": "sgd", "lr": 1e-12}}
    config = load_config(tiny)
    folder, _, _ = train(config, out=tmp_path / "run")
    model, samples = load_model(folder), build_train(config)
    total, count = 0.0, 0
    for item in (samples[i] for i in range(len(samples))):
        with torch.no_grad():
            error = (model(item["image"])[0] - item["keypoints"]).abs().mean(-1)
        for k in range(3):
            if item["visible"][k]:
                total, count = total + float(item["weight"][k] * error[k]), count + 1
    assert (len(samples), count) == (12, 24 + 8)
    assert pd.read_csv(folder / "metrics.csv").train_loss[0] == pytest.approx(total / count, rel=1e-5)
