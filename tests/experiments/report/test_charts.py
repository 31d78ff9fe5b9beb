"""What the charts of the report show: one epoch or many, few points or many, rows with different points."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kpnet.coordinates import pixel_to_normalized
from kpnet.experiments.report.charts import ReportRow, assign_colours, draw_charts, draw_shapes, point_errors
from kpnet.experiments.result import Result


def row(folder: Path, names: Sequence[str], epochs: int = 1, errors: Sequence[float | None] = ()) -> ReportRow:
    """A row of one run with falling losses, whose true points lie anywhere."""
    folder.mkdir()
    losses = 2.0 ** -np.arange(epochs)
    metrics = pd.DataFrame({"epoch": np.arange(epochs), "train_loss": losses, "val_score": 1 / losses})
    metrics.to_csv(folder / "metrics.csv", index=False)
    true = np.random.default_rng(0).uniform(0, 60, (6, len(names), 2))
    target = pixel_to_normalized(true, (64, 64))
    measured = errors or [1.5] * len(names)
    curve = {"threshold": [0.01, 0.1], "share": [0.0, 0.5]}
    measures = {
        "score": 3.0,
        "nme_by": "box",
        "ced_curve": curve,
        "pck_curve": curve,
        "per_point": {name: {"rmse_px": error} for name, error in zip(names, measured, strict=True)},
    }
    visible = np.ones(target.shape[:2], bool)
    cost = {"parameters": 10**6, "latency_1": 0.1}
    images = np.arange(len(target))
    done = Result(target, target, visible, images, [*names], (64, 64), measures, cost, {})
    made = ReportRow(folder.name, [], [folder], [done])
    assign_colours([made])
    return made


@pytest.mark.parametrize(("epochs", "dots"), [(1, 1), (2, 2), (20, 20), (200, 0)])
def test_a_curve_of_few_epochs_has_a_dot_for_each(epochs: int, dots: int, tmp_path: Path) -> None:
    made = row(tmp_path / "run", ["nose"], epochs)
    panels = draw_charts([made])["Learning curves (mean and range over the seeds)"]
    assert len(panels) == 2
    for svg in panels:
        assert len(re.findall(rf"<use [^>]*fill: {made.colour}; stroke", svg)) == dots


def test_one_epoch_of_two_seeds_shows_their_range(tmp_path: Path) -> None:
    both = row(tmp_path / "a", ["nose"])
    other = row(tmp_path / "b", ["nose"])
    (tmp_path / "b" / "metrics.csv").write_text("epoch,train_loss,val_score\n0,4,5\n")
    both.runs += other.runs
    both.results += other.results
    for svg in draw_charts([both])["Learning curves (mean and range over the seeds)"]:
        (line,) = re.findall(rf'<path d="M (\S+) (\S+) \nL (\S+) (\S+) \n?"[^>]*stroke: {both.colour}', svg)
        assert line[0] == line[2]
        assert abs(float(line[1]) - float(line[3])) > 50


def test_few_points_are_named_and_many_numbered(tmp_path: Path) -> None:
    few = row(tmp_path / "few", ["nose", "left_ear", "tail$base"])
    (svg,) = draw_shapes([few])
    for name in few.results[0].names:
        assert f"{name} 1.50" in svg
    many = row(tmp_path / "many", [f"point_{k}" for k in range(68)])
    (svg,) = draw_shapes([many])
    texts = [text.strip() for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]
    assert {str(k) for k in range(1, 69)} <= set(texts)


def test_errors_of_points_that_not_every_row_has(tmp_path: Path) -> None:
    first = row(tmp_path / "a", ["nose", "tail"], errors=[0.0, None])
    other = row(tmp_path / "b", ["tail", "ear"], errors=[2.0, 3.0])
    assert point_errors([first, other]) == {"nose": [0.0, None], "tail": [None, 2.0], "ear": [None, 3.0]}
    assert len(draw_shapes([first, other])) == 2


def test_points_that_are_never_labelled(tmp_path: Path) -> None:
    made = row(tmp_path / "run", ["nose", "tail", "ear"], errors=[1.0, 2.0, None])
    made.results[0].visible[:, 2] = False
    (svg,) = draw_shapes([made])
    assert "tail 2.00" in svg
    assert "ear" not in svg
    made.results[0].visible[:] = False
    assert len(draw_shapes([made])) == 1
