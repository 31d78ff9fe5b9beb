"""The benchmarks: the simulated labelling loop, in small, and the table of few labels."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from support.paths import ROOT

from kpnet.config.loading import load_config
from kpnet.config.schema import Fold


@contextmanager
def accuracy_benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A script of `benchmarks/accuracy` as a module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "accuracy")
    try:
        yield importlib.import_module(name)
    finally:
        for each in (name, "running"):
            sys.modules.pop(each, None)


@pytest.fixture
def labelling(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    with accuracy_benchmark("labelling", monkeypatch) as module:
        yield module


def test_keystrokes_by_hand(labelling: ModuleType) -> None:
    """Of an image of 40 x 100 with 4 points, one without a label, those further off than 5 px are dragged."""
    truth = np.array([[10.0, 10.0], [20.0, 20.0], [30.0, 30.0], [np.nan, np.nan]])
    off = np.array([[3.0, 4.0], [3.0, 4.1], [0.0, 0.0], [50.0, 50.0]])
    pool = SimpleNamespace(read=lambda index: (np.zeros((40, 100), np.uint8), truth))
    found = labelling.proposed(
        lambda image: SimpleNamespace(keypoints=(np.nan_to_num(truth) + off)[None]), pool, [0, 1]
    )
    assert found == {"near_percent": 66.7, "keys_by_hand": 4.0, "keys": 3.0}


@pytest.mark.slow
def test_the_loop_in_small(labelling: ModuleType, tmp_path: Path) -> None:
    """Labels are revealed as the queue shows the images, and what is measured is not measured again."""
    table, runs = tmp_path / "labelling.csv", tmp_path / "runs"
    labelling.main(["--small", "--out", str(table), "--runs", str(runs)])
    rows = pd.read_csv(table)
    assert rows.labels.tolist() == [6, 9, 12] * 2
    assert rows.queue.tolist() == ["uncertain"] * 3 + ["random"] * 3
    first = rows[rows.labels == 6]
    assert first.score.nunique() == 1  # one training begins both
    assert first.rmse_percent.tolist() == pytest.approx((50 / np.sqrt(2 * first.score)).tolist(), rel=0.02)
    folder = runs / "synthetic_train" / "images"
    names = {path.stem: set(pd.read_csv(path).image) for path in folder.glob("labels_*.csv")}
    draw = np.random.default_rng(0).permutation(24)
    for queue in labelling.QUEUES:  # each round keeps the labels of the one before
        start, second, third = (
            names[f"labels_synthetic_0_4_{arm}"] for arm in ("start_6", f"{queue}_9", f"{queue}_12")
        )
        assert start == {f"{index}.png" for index in draw[:6]}
        assert start < second < third
        assert [len(second), len(third)] == [9, 12]
    assert names["labels_synthetic_0_4_random_12"] == {f"{index}.png" for index in draw[:12]}
    before = table.read_bytes()
    stamps = {path: path.stat().st_mtime_ns for path in runs.rglob("*.safetensors")}
    assert len(stamps) >= 5
    labelling.main(["--small", "--out", str(table), "--runs", str(runs)])
    assert table.read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*.safetensors")} == stamps


@pytest.fixture
def few_labels(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    with accuracy_benchmark("few_labels", monkeypatch) as module:
        yield module


def test_rows_of_few_labels_differ_in_what_they_say(few_labels: ModuleType, tmp_path: Path) -> None:
    """Each row's name is its own, its config can be read, and all that have labels have about the same steps."""
    assert len(few_labels.ROWS) == len(few_labels.LIST)
    for name in (
        "faces15 120 scratch 0",
        "faces15 60 squeezenet+unlabelled 0",
        "helen68 60 squeezenet+unlabelled 0",
        "openfield 25 pretrained 0",
    ):
        row = few_labels.ROWS[name]
        recipe, *overrides = few_labels.options(row, tmp_path, tmp_path)
        config = load_config(recipe, overrides)
        labels = config.data.train[0].limit
        assert labels is not None
        assert labels == row.labels
        steps = config.train.epochs * np.ceil(labels / config.train.batch_size)
        wanted = few_labels.UNLABELLED_STEPS if row.extra else few_labels.STEPS
        assert wanted <= steps < wanted + 16
        assert bool(config.data.unlabelled) == bool(row.extra)
        weights = {"squeezenet": few_labels.WEIGHTS, "pretrained": f"pretraining_{row.data}"}.get(row.start)
        assert config.model.pretrained == (weights is not None and str(tmp_path.resolve() / weights))
        assert (config.model.backbone == "torchvision/squeezenet1_0") == (row.start == "squeezenet")
    fold = few_labels.options(few_labels.ROWS["mirror_mouse folds squeezenet 3"], tmp_path, tmp_path)
    assert load_config(fold[0], fold[1:]).data.fold == Fold(index=3, of=5)


def test_the_table_of_few_labels_says_what_is_not_run(few_labels: ModuleType, tmp_path: Path) -> None:
    measured = {"minutes": 3.0, "score": 610.2, "mre_px": 1.2, "mre_percent": 1.3, "pck5": 97.1}
    folds = [{**measured, "row": f"mirror_mouse folds squeezenet {fold}", "score": None} for fold in range(5)]
    folds[0]["mre_px"] = 2.2
    table = tmp_path / "few_labels.csv"
    pd.DataFrame([{**measured, "row": "faces15 120 scratch 0"}, *folds]).to_csv(table, index=False)
    lines = few_labels.markdown(table).splitlines()
    assert "| faces15 120 scratch 0 | 610 | 1.20 | 1.30 | 97.1 | 3.0 |" in lines
    assert any(
        line.startswith("| mirror_mouse folds squeezenet: 5 of them |  | 1.40 (spread 0.45) |") for line in lines
    )
    missing = [line for line in lines if "not run" in line]
    assert len(missing) == len({row.name for row in few_labels.LIST if row.fold is None}) - 1 + 1  # openfield's folds
    assert any('few_labels.py shared=FOLDER "openfield folds squeezenet"`' in line for line in missing)
    errors = [{"row": each["row"], "point": "paw", "mre_percent": 2.0 + n} for n, each in enumerate(folds)]
    pd.DataFrame(errors).to_csv(tmp_path / "few_labels_points.csv", index=False)
    assert few_labels.points_markdown(table).splitlines()[2:] == ["| paw | 5 | 4.00 | 1.58 |"]
