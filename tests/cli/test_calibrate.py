"""`kpnet calibrate` for a model that finds instances."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.console import Run
from support.shapes import NAMES, trained_shapes, write_shapes

from kpnet import load_model
from kpnet.data.wrappers.scenes import Scenes
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


def test_calibrate_says_how_many_instances_it_needs(kpnet: Run, finding: Path, tmp_path: Path) -> None:
    """A model whose points are calibrated already is not changed either."""
    run, few = shutil.copytree(finding, tmp_path / "run"), write_shapes(tmp_path / "data", [3] * 6, seed=2)
    before = (run / "final" / "model.yaml").read_bytes()
    kpnet("calibrate", run, few).refused("calibration of instances: expected at least 20 of them, found 18")
    assert (run / "final" / "model.yaml").read_bytes() == before
