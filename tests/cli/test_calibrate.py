"""`kpnet calibrate` out of fold, on data that a run was validated with, and for a model that finds instances."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.console import Run
from support.shapes import NAMES, trained_shapes, write_shapes

from kpnet import build_model, load_model
from kpnet.config.loading import load_config
from kpnet.config.schema import Config
from kpnet.data import KaggleCSV, KeypointDataset
from kpnet.data.wrappers.scenes import Scenes
from kpnet.evaluation.measurement import Predictions, predict_dataset
from kpnet.inference.prediction import Prediction


@pytest.fixture(scope="module")
def finding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a finder and crops, trained for a moment; tests copy it before they write into it."""
    return trained_shapes(tmp_path_factory.mktemp("finding"))


def all_true(model: Any, scenes: Scenes, *options: Any) -> list[Prediction]:
    """As `find_in`: every true instance a pixel off, and a false one of a lower score in each image."""
    found = []
    for index in range(len(scenes)):
        truth = scenes.truth(index)
        points = np.concatenate([truth.points + np.array([0.3, 0]), np.full((1, 3, 2), 300.0)])
        scores = np.append(np.full(len(truth.points), 0.6), 0.2)
        boxes = np.concatenate([truth.boxes, np.full((1, 4), 300.0)])
        found.append(
            Prediction(truth.image, NAMES, points, np.full(points.shape[:2], 0.8), None, scores=scores, boxes=boxes)
        )
    return found


def test_calibrate_fits_points_and_instances(
    kpnet: Run, finding: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, held_out = shutil.copytree(finding, tmp_path / "run"), write_shapes(tmp_path / "data", [2, 3] * 4, seed=2)
    monkeypatch.setattr("kpnet.evaluation.found.find_in", all_true)
    done = kpnet("calibrate", run, held_out)
    assert "calibrated on 60 points and 20 instances" in done.out
    assert "found   20 of 20 (recall 100.00 %), 0 false" in done.out
    assert "expected OKS" in done.out
    calibration = load_model(run).instance_calibration
    assert calibration is not None
    low, high = calibration.probability(np.array([0.2, 0.6]), np.full((2, 3), 0.8))
    assert low < calibration.threshold < high


def test_the_training_data_calibrate_out_of_fold(
    kpnet: Run, run_copy: Path, make_csv: Callable[[int, int], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The predictions of the folds are stood in for; the fit is saved, and val is compared with them."""
    given = tmp_path / "more.csv"
    given.write_text(make_csv(40, 5))
    asked = []

    def predict(config: Config, folds: int, out: Path, **options: Any) -> tuple[KeypointDataset, Predictions]:
        asked.append((config.data.val, folds, out, options["flip"]))
        model = load_model(run_copy)
        dataset = KaggleCSV(given, skeleton=model.skeleton, image_size=model.config.input_size)
        return dataset, predict_dataset(model, dataset)

    monkeypatch.setattr("kpnet.experiments.folds.predict_folds", predict)
    done = kpnet("calibrate", run_copy / "final", "--folds", "4")
    assert (done.code, done.err) == (0, "")
    assert asked == [("val.csv", 4, run_copy / "folds", False)]
    assert "calibrated on 120 points" in done.out
    assert "after calibration, on the training data, out of fold\n  confidence, cross-fitted" in done.out
    assert "px on the calibration data (40 images) and" in done.out
    assert "px on the validation data (5 images)" in done.out
    calibration = load_model(run_copy).calibration
    kpnet("calibrate", run_copy, given)  # the same predictions
    assert load_model(run_copy).calibration == calibration
    kpnet("calibrate", run_copy).refused("expected labelled data", "--folds 5", "found neither")
    kpnet("calibrate", run_copy, given, "--folds", "4").refused("found both")
    kpnet("calibrate", run_copy, "--folds", "4", "--format", "npz").refused("--format", "leave it out")
    config = load_config(run_copy / "config.yaml")
    several = {"name": "temporal", "head": config.model.head}
    model = build_model(
        {**config.model.model_dump(mode="json"), "head": several}, skeleton=load_model(run_copy).skeleton
    )
    temporal = shutil.copytree(run_copy, tmp_path / "temporal")
    model.save(temporal / "final")
    kpnet("calibrate", temporal, "--folds", "4").refused("--folds: frames around one of a fold are in the others")
    load_model(run_copy).save(tmp_path / "alone")
    kpnet("calibrate", tmp_path / "alone", "--folds", "4").refused("alone", "a model alone", "give labelled data")


@pytest.mark.slow
def test_out_of_fold_from_the_command_line(
    kpnet: Run, recipe: Path, data: Path, make_csv: Callable[[int, int], str]
) -> None:
    """Two models are trained and kept, and the second time they are found."""
    (data / "train.csv").write_text(make_csv(20, 0))
    kpnet("train", recipe, "data.val=null", "train.epochs=1", "train.average=null", "--out", "run")
    done = kpnet("calibrate", "run", "--folds", "2")
    assert (done.code, done.err) == (0, "")
    assert "calibrated on 60 points" in done.out
    assert "validation data" not in done.out
    assert len(list(Path("run", "folds", "runs").glob("*fold?of2*/final"))) == 2
    again = kpnet("calibrate", "run", "--folds", "2")
    assert again.out.count("already finished") == 2
    assert again.out.splitlines()[-6:] == done.out.splitlines()[-6:]


def test_calibrate_says_how_many_instances_it_needs(kpnet: Run, finding: Path, tmp_path: Path) -> None:
    """A model whose points are calibrated already is not changed either."""
    run, few = shutil.copytree(finding, tmp_path / "run"), write_shapes(tmp_path / "data", [3] * 6, seed=2)
    before = (run / "final" / "model.yaml").read_bytes()
    kpnet("calibrate", run, few).refused("calibration of instances: expected at least 20 of them, found 18")
    assert (run / "final" / "model.yaml").read_bytes() == before
