"""The end of a training: its model is calibrated and measured on the validation data."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from support.recipes import TINY_HEATMAP

from kpnet.config.loading import load_config
from kpnet.config.schema import Config
from kpnet.core.console import PlainConsole
from kpnet.evaluation.measurement import predict_dataset
from kpnet.evaluation.reliability import measure_reliability
from kpnet.evaluation.run_data import evaluation_dataset
from kpnet.models.build import load_model
from kpnet.models.calibration import fit_calibration
from kpnet.models.record import read_record
from kpnet.training.supervised import train


def tiny(*overrides: str) -> Config:
    values = {
        "model": TINY_HEATMAP,
        "data": {"format": "synthetic", "train": 21},
        "train": {"batch_size": 8, "seed": 3},
        "trainer": {"accelerator": "cpu"},
    }
    return load_config(values, overrides)


def test_a_training_ends_calibrated(tmp_path: Path) -> None:
    """The saved calibration uses all validation images, and the figures are of each half by the fit to the other."""
    log = io.StringIO()
    config = tiny("data.val=8", "train.epochs=2", "train.average=null")
    folder, model, measures = train(config, out=tmp_path / "run", console=PlainConsole(file=log, width=200))
    saved, best = load_model(folder), load_model(folder / "best")
    val = evaluation_dataset(folder, None, model)
    raw, size = load_model(folder), model.config.input_size
    raw.calibration = None
    found = predict_dataset(raw, val)
    assert saved.calibration == fit_calibration(found.predicted, found.target, found.visible, size)
    assert best.calibration is not None
    order = np.random.default_rng(0).permutation(8)
    halves = [torch.from_numpy(np.sort(order[start::2])) for start in (0, 1)]
    inside = 0.0
    for here, there in (halves, halves[::-1]):
        kept = ("keypoints", "confidence", "covariance")
        parts = [
            dataclasses.replace(found.predicted, **{name: getattr(found.predicted, name)[side] for name in kept})
            for side in (here, there)
        ]
        told = fit_calibration(parts[1], found.target[there], found.visible[there], size)(parts[0], size)
        own = measure_reliability(told, found.target[here], found.visible[here], size)["coverage"]["90%"]
        inside += own["measured"] / 2
    assert measures["reliability"]["cross_fitted"]
    assert measures["reliability"]["coverage"]["90%"]["measured"] == pytest.approx(inside)
    record = read_record(folder / "final", saved)
    assert record is not None
    assert not record["outdated"]
    assert record["measures"]["reliability"] == measures["reliability"]
    assert "on the validation data, final/ is calibrated on 120 points\n" in log.getvalue()
    assert "best/ is calibrated on the validation data too, which picked it" in log.getvalue()


def test_what_only_an_uncalibrated_model_was_measured_with_is_not_recorded(tmp_path: Path) -> None:
    """Sixty points are enough for a calibration, and too few for one of each half."""
    _, model, measures = train(tiny("data.val=4", "train.epochs=1"), out=tmp_path / "run")
    assert model.calibration is not None
    assert "score" in measures
    assert "reliability" not in measures


def test_without_validation_data_a_training_says_how_to_calibrate(tmp_path: Path) -> None:
    log = io.StringIO()
    config = tiny("data.val=null", "train.epochs=1", "train.average=null")
    folder, model, _ = train(config, out=tmp_path / "run", console=PlainConsole(file=log, width=200))
    assert model.calibration is None
    assert f"no validation data: kpnet calibrate {folder} --folds 5" in log.getvalue()
