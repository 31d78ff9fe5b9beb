"""Out-of-fold predictions: the recipe that fits the data, and that no model saw what it predicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from support.format_files import write_coco, write_points_csv

from kpnet.config.loading import load_config
from kpnet.core.errors import KpnetError
from kpnet.data import COCO, KaggleCSV, PointsCSV, SyntheticFaces
from kpnet.data.wrappers.subset import split_fold
from kpnet.experiments import folds
from kpnet.experiments.folds import fold_config, predict_folds, short_recipe
from kpnet.experiments.runner import Outcome
from kpnet.heads import Keypoints


def test_the_recipe_fits_the_data(tmp_path: Path) -> None:
    grey = short_recipe(SyntheticFaces(1200), 5)
    assert grey["model"]["in_channels"] == 1
    assert grey["model"]["input_size"] == [96, 96]
    assert grey["train"]["epochs"] == 12
    assert "HorizontalFlip" in str(grey["data"]["transforms"])
    boxed = short_recipe(COCO(write_coco(tmp_path)), 2)
    assert boxed["model"]["in_channels"] == 3
    assert boxed["data"]["crop"] == "box"
    assert boxed["train"]["epochs"] == 100


def test_several_instances_without_boxes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KpnetError, match="several instances, and no boxes"):
        short_recipe(PointsCSV(write_points_csv(tmp_path)), 2)


def test_a_recipe_of_ones_own_gets_the_data(data: Path, recipe: Path) -> None:
    dataset = KaggleCSV(data / "train.csv")
    config = fold_config(data / "train.csv", "kaggle_csv", dataset, 2, recipe)
    assert config.model == load_config(recipe).model
    assert config.data.train[0].file == str(data / "train.csv")
    assert config.data.val is None
    assert config.data.skeleton == dataset.skeleton.to_dict()


def test_a_recipe_of_whole_images_is_refused_before_it_trains(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny["model"]["head"] = "centers"
    with pytest.raises(KpnetError, match='the recipe has the head "centers"'):
        predict_folds(load_config(tiny), 2, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_each_sample_is_predicted_by_the_model_that_did_not_see_it(
    monkeypatch: pytest.MonkeyPatch, tiny: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    """Of four folds, the model of fold f predicts f for everything."""
    tiny["data"].pop("val")
    config = load_config(tiny)
    dataset = KaggleCSV(data / "train.csv")
    held = {}

    class Constant:
        skeleton = dataset.skeleton
        presence = object()  # a branch

        def __init__(self, run: Path) -> None:
            self.number = int(run.name.split("fold")[1][0]) - 1

        def to(self, device: object) -> Constant:
            return self

    def run_trials(rows: list[Any], out: Path, *_: object) -> Any:
        for trial in rows[0].trials:
            held[trial.config.data.fold.index] = split_fold(dataset, trial.config.data.fold)[1]
            yield Outcome(trial, trial.folder(out), result=object())  # type: ignore[arg-type]

    def predict(model: Constant, part: Any, **_: object) -> Any:
        result = real(network, part)
        points = torch.full_like(result.predicted.keypoints, model.number)
        result.predicted, result.present = Keypoints(points, presence=points[..., 0]), torch.ones_like(points[..., 0])
        return result

    def predict_copies(model: Constant, part: Any, **_: object) -> Any:
        copies = predict(model, part)
        return replace(copies, predicted=Keypoints(copies.predicted.keypoints + 10, presence=copies.predicted.presence))

    from kpnet.models.build import assemble

    network, real = assemble(config.model, dataset.skeleton), folds.predict_dataset
    monkeypatch.setattr(folds, "run_trials", run_trials)
    monkeypatch.setattr(folds, "load_model", Constant)
    monkeypatch.setattr(folds, "predict_dataset", predict)
    monkeypatch.setattr(folds, "predict_absences", predict_copies)
    view, found = predict_folds(config, 4, tmp_path / "out", console=Console(quiet=True))
    assert len(view) == len(found.target) == 8
    for number, indices in held.items():
        assert len(indices) == 2
        assert (found.predicted.keypoints[indices] == number).all()
    expected = np.stack([view.sample(index, ())["keypoints"].numpy() for index in range(8)])
    assert np.array_equal(found.target.numpy(), expected)
    _, known = predict_folds(config, 4, tmp_path / "out", console=Console(quiet=True), absences=True)
    assert torch.equal(
        known.predicted.keypoints, torch.cat([found.predicted.keypoints, found.predicted.keypoints + 10])
    )
    assert known.visible[:8].any()
    assert not known.visible[8:].any()
