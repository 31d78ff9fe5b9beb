"""Commands on data of other formats than the run's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.console import Run
from support.format_files import write_coco, write_points_csv

from kpnet import load_model
from kpnet.config.schema import DataConfig
from kpnet.data import PointsCSV
from kpnet.data.build import build_dataset
from kpnet.inference.predictor import Predictor


def test_evaluate_over_the_points_that_model_and_data_share(kpnet: Run, trained: Path, tmp_path: Path) -> None:
    """The run knows left_eye, right_eye and nose; the data nose and two ears."""
    path = write_points_csv(tmp_path / "points")
    done = kpnet("evaluate", trained, path, "--json")
    assert done.code == 0, done
    measures = json.loads(done.out)
    assert (measures["images"], measures["samples"]) == (3, 4)
    assert measures["points"] == 4
    predictor, data = Predictor(trained), PointsCSV(path)
    nose = predictor.model.skeleton.names.index("nose")
    scale = [32 / max(data.read(index)[0].shape[:2]) for index in range(4)]
    off = [predictor(data.path(i)).keypoints[0, nose] - data.keypoints(i)[0] for i in range(4)]
    expected = np.mean([np.hypot(*d) * s for d, s in zip(off, scale, strict=True)])
    assert measures["mre_px"] == pytest.approx(expected, rel=1e-3)
    same = kpnet("evaluate", trained, write_coco(tmp_path / "coco"), "--json")
    assert json.loads(same.out)["mre_px"] == pytest.approx(expected, rel=1e-3)


def test_nothing_shared_is_an_error(kpnet: Run, trained: Path, tmp_path: Path) -> None:
    path = write_points_csv(tmp_path / "points")
    path.write_text(path.read_text().replace("nose", "tail"))
    kpnet("evaluate", trained, path).refused("none of its points (tail, left_ear, right_ear) is one of the skeleton's")


def test_a_missing_point_is_still_an_error_in_training(trained: Path, tmp_path: Path) -> None:
    path, model = write_points_csv(tmp_path / "points"), load_model(trained)
    with pytest.raises(ValueError, match='no point "left_eye", which the skeleton has'):
        build_dataset(DataConfig(format="points_csv"), model.config, str(path), skeleton=model.skeleton)


@pytest.mark.parametrize("command", ["evaluate", "calibrate", "predict"])
def test_the_format_of_new_data_is_an_option(command: str, kpnet: Run, run_copy: Path, tmp_path: Path) -> None:
    """Points that count from 1 in a table without a known suffix, which no detection could read."""
    path = write_points_csv(tmp_path / "points")
    table = pd.read_csv(path)
    columns = [str(name) for name in table if name != "image"]
    shifted = path.with_suffix(".table")
    table.assign(**{name: table[name] + 1 for name in columns}).to_csv(shifted, index=False)
    more = ["--json"] if command != "calibrate" else []
    assert kpnet(command, run_copy, shifted, *more).code == 2
    done = kpnet(command, run_copy, shifted, "--format", "{name: points_csv, index_base: 1}", *more)
    if command == "calibrate":
        return done.refused("calibration: expected at least 50 labelled points, found 4")
    assert done.code == 0, done
    if command == "evaluate":
        assert json.loads(done.out) == json.loads(kpnet("evaluate", run_copy, path, "--json").out)
    if command == "predict":
        assert len({row["image"] for row in json.loads((tmp_path / "predictions/predictions.json").read_text())}) == 3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("3", ["--format: expected e.g. pts", 'found "3"']),
        ("[coco]", ["--format: expected e.g. pts"]),
        ("{index_base: 1}", ["--format: expected a name or a mapping with a"]),
        ("{name: pts, indx: 1}", ["unknown key", "indx"]),
        ("{", ["--format: not YAML"]),
        ("{name: 2020-13-45}", ["unknown data format"]),
        ("ccoo", ["unknown data format", "coco"]),
    ],
)
def test_a_wrong_format(kpnet: Run, trained: Path, tmp_path: Path, given: str, words: list[str]) -> None:
    path = write_points_csv(tmp_path / "points")
    for command in (["data", "check"], ["evaluate", trained], ["predict", trained]):
        kpnet(*command, path, "--format", given).refused(*words)
    kpnet("evaluate", trained, "--format", "coco").refused("--format", "validation data")
