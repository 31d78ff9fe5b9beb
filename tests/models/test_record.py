"""The measures that a training records, and when they no longer hold."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from kpnet import evaluate, load_model
from kpnet.models.calibration import Calibration
from kpnet.models.record import FIGURE, NEEDED, RECORD, read_record, write_record


def test_a_training_records_what_evaluate_measures(trained: Path) -> None:
    model = load_model(trained)
    record = read_record(model.folder, model)
    assert record is not None
    measures = evaluate(trained)
    assert abs(record["measures"]["rmse_px"] - measures["rmse_px"]) < 1e-4
    assert record["of_training"]
    assert not record["outdated"]
    assert (trained / "final" / FIGURE).is_file()


def test_other_weights_have_no_record(run_copy: Path) -> None:
    model = load_model(run_copy)
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    assert read_record(run_copy / "final", model) is None
    assert read_record(None, model) is None
    (run_copy / "final" / RECORD).write_text("[]")
    assert read_record(run_copy / "final", load_model(run_copy)) is None


def test_a_record_that_lacks_a_measure_is_none(run_copy: Path) -> None:
    path, model = run_copy / "final" / RECORD, load_model(run_copy)
    record = json.loads(path.read_text())
    del record["measures"]["samples"]
    path.write_text(json.dumps(record))
    assert read_record(path.parent, model) is None


def test_another_decoding_has_no_record(trained: Path) -> None:
    model = load_model(trained, decoding="argmax")
    assert read_record(model.folder, model) is None


def test_a_calibration_ends_the_reliability(tmp_path: Path, trained: Path) -> None:
    model = load_model(trained)
    measures = dict.fromkeys(NEEDED, 1.0)
    more = {"nme_by": float("nan"), "reliability": {"ece": 0.1}, "presence": {"auc": 1.0}}
    write_record(tmp_path, model, measures | more)
    assert json.loads((tmp_path / RECORD).read_text())["measures"]["nme_by"] is None
    model.calibration = Calibration([0.0] * 3, 1.0, 5.0, 60)
    record = read_record(tmp_path, model)
    assert record is not None
    assert record["measures"] == {**measures, "nme_by": None}
    assert record["outdated"]
