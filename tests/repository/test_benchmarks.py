"""The simulated labelling loop, in small."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from support.paths import ROOT


@pytest.fixture
def labelling(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "accuracy")
    yield importlib.import_module("labelling")
    for name in ("labelling", "running"):
        del sys.modules[name]


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
