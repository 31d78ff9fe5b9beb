"""The table of a comparison: means, spreads, and the paired bootstrap."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kpnet.experiments.result import Result
from kpnet.experiments.table import HEADINGS, KEYS, Group, cells, paired_bootstrap, tabulate, to_csv, to_markdown

NAMES = ["left_eye", "right_eye", "nose"]
COST: dict[str, Any] = {"parameters": 1_234_567, "macs": 98_000_000, "model_bytes": 5e6, "peak_bytes": None}
COST |= {"train_images_per_second": 321.0, "train_seconds": 90.0, "latency_1": 0.004, "latency_64": 0.2}


def result(error: float, *, names: list[str] = NAMES, images: int = 60, seed: int = 0) -> Result:
    """Normal errors of that size about the same truth; the last image lacks its first point."""
    truth = np.random.default_rng(7).uniform(-0.5, 0.5, (images, len(NAMES), 2))
    columns = [NAMES.index(name) if name in NAMES else 0 for name in names]
    noise = np.random.default_rng(seed).normal(0, error, truth.shape)
    visible = np.ones((images, len(NAMES)), bool)
    visible[-1, 0] = False
    mse = np.square(noise)[visible].mean()
    measures = {"score": 1 / (2 * mse), "rmse_px": 48 * math.sqrt(mse), "nme": 0.02, "pck@5%": 0.9, "pck_auc": 0.8}
    arrays = (truth + noise)[:, columns], truth[:, columns], visible[:, columns], np.arange(images)
    return Result(*arrays, names, (96, 96), {**measures, "failure_rate": 0.0}, COST, {})


def test_means_and_spreads() -> None:
    scores = [result(0.02, seed=seed).measures["score"] for seed in range(3)]
    (record,) = tabulate([Group("a", [result(0.02, seed=seed) for seed in range(3)])])
    assert record["score"] == pytest.approx(np.mean(scores))
    assert record["score_sd"] == pytest.approx(np.std(scores, ddof=1))
    assert record["runs"] == 3
    assert record["peak_bytes"] is None
    assert record["difference"] is None


def test_one_run_has_no_spread() -> None:
    (record,) = tabulate([Group("a", [result(0.02)])])
    assert record["score_sd"] is None
    assert "±" not in to_markdown([record])


def test_a_difference_is_that_of_the_scores_and_told_from_chance() -> None:
    groups = [
        Group("first", [result(0.02)]),
        Group("alike", [result(0.02, seed=5)]),
        Group("worse", [result(0.03, seed=6)]),
    ]
    first, alike, worse = tabulate(groups)
    assert worse["difference"] == pytest.approx(worse["score"] - first["score"])
    assert worse["low"] < worse["difference"] < worse["high"] < 0
    assert worse["p"] < 0.01
    assert alike["low"] < 0 < alike["high"]
    assert alike["p"] > 0.05


def test_the_interval_is_the_closed_form_s() -> None:
    """For mean squared errors of many images, the bootstrap's spread is that of the mean of the paired ratios."""
    rng = np.random.default_rng(0)
    images, counts = 2000, np.full(2000, 6)
    first, other = rng.chisquare(6, (2, 1, images))
    found = paired_bootstrap([(first, other, counts)])
    scores = [counts.sum() / (2 * squared.sum()) for squared in (first, other)]
    # d score = -score d sum / sum, of both, image by image
    change = [
        -score * squared[0] / squared.sum() * images for score, squared in zip(scores, (first, other), strict=True)
    ]
    sd = np.std(change[1] - change[0]) / math.sqrt(images)
    assert found["difference"] == pytest.approx(scores[1] - scores[0])
    assert (found["high"] - found["low"]) / (2 * 1.96) == pytest.approx(sd, rel=0.08)


def test_the_same_predictions_differ_by_nothing() -> None:
    first, same = tabulate([Group("first", [result(0.02)]), Group("same", [result(0.02)])])
    assert (same["difference"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)
    assert first["note"] == ""


def test_the_samples_of_an_image_are_drawn_together() -> None:
    """Three instances with the same errors in each image tell as much as one."""
    one = [result(0.02, seed=1), result(0.021, seed=2)]
    three = [
        replace(
            row,
            predicted=row.predicted.repeat(3, 0),
            target=row.target.repeat(3, 0),
            visible=row.visible.repeat(3, 0),
            images=row.images.repeat(3),
        )
        for row in one
    ]
    rows = [tabulate([Group("first", [first]), Group("other", [other])])[1] for first, other in (one, three)]
    for key in ("difference", "low", "high", "p"):
        assert rows[0][key] == pytest.approx(rows[1][key]), key
    apart = replace(three[1], images=np.arange(180))
    note = tabulate([Group("first", [three[0]]), Group("other", [apart])])[1]["note"]
    assert note == "not compared with first, as images or labels differ"


def test_with_folds_the_difference_is_still_that_of_the_scores() -> None:
    """A row's score is the mean of its folds' scores, which is not the score of all images at once."""

    def halves(row: Result) -> Group:
        group = Group("halves")
        for part in (slice(0, 25), slice(25, 60)):
            arrays = row.predicted[part].copy(), row.target[part], row.visible[part], row.images[part] - part.start
            if part.start == 0:
                arrays[0][...] = arrays[1] + 0.1 * (arrays[0] - arrays[1])  # an easy fold
            mse = np.square(arrays[0] - arrays[1])[arrays[2]].mean()
            group.results.append(Result(*arrays, NAMES, (96, 96), {**row.measures, "score": 1 / (2 * mse)}, COST, {}))
        return group

    first, other = halves(result(0.02, seed=1)), halves(result(0.03, seed=2))
    other.results.reverse()
    a, b = tabulate([first, other])
    assert b["difference"] == pytest.approx(b["score"] - a["score"])


def test_what_cannot_be_compared_says_why() -> None:
    fewer = Group("fewer", [result(0.02, names=["nose", "left_eye"])])
    other = Group("other", [result(0.02, names=["left_ear"])])
    shorter = Group("shorter", [result(0.02, images=30)])
    failed = Group("failed", problems=["seed 0: no such file"])
    assert "not compared with failed, which has no run" in tabulate([failed, Group("first", [result(0.02)])])[1]["note"]
    records = tabulate([Group("first", [result(0.02)]), fewer, other, shorter, failed])
    notes = [record["note"] for record in records]
    assert notes[1:] == [
        "compared with first on 2 shared points",
        "not compared with first, as they share no points",
        "not compared with first, as images or labels differ",
        "seed 0: no such file",
    ]
    assert [record["p"] is None for record in records] == [True, False, True, True, True]
    assert records[4]["score"] is None


def test_points_are_matched_by_name() -> None:
    """In another order they are the same points, and the same errors."""
    turned = result(0.02)
    order = [2, 0, 1]
    turned.predicted, turned.target, turned.visible = (
        each[:, order] for each in (turned.predicted, turned.target, turned.visible)
    )
    turned.names = [NAMES[k] for k in order]
    assert tabulate([Group("a", [result(0.02)]), Group("b", [turned])])[1]["difference"] == pytest.approx(0)


def test_texts() -> None:
    records = tabulate([Group("a|b", [result(0.02), result(0.02, seed=1)]), Group("c", problems=["no data"])])
    text = cells(records[0])
    assert len(text) == len(HEADINGS) == len(KEYS)
    assert text[HEADINGS.index("parameters")] == "1.23 M"
    assert text[HEADINGS.index("MACs")] == "98 M"
    assert text[HEADINGS.index("ms at 1")] == "4.0"
    assert text[HEADINGS.index("minutes")] == "1.5"
    lines = to_markdown(records).splitlines()
    assert "peak MB" not in lines[0]
    assert lines[2].startswith(r"| a\|b | 2 |")
    assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1
    rows = list(csv.DictReader(io.StringIO(to_csv(records))))
    assert float(rows[0]["score"]) == records[0]["score"]
    assert rows[1]["note"] == "no data"


def test_models_that_find_instances_have_the_ap_of_those() -> None:
    """The column is there where a row has one, and not with models of one instance alone."""
    finding = [result(0.02, seed=seed) for seed in range(2)]
    for each, ap in zip(finding, (0.8, 0.9), strict=True):
        each.measures["instances"] = {"AP": ap}
    records = tabulate([Group("a", [result(0.02)]), Group("b", finding)])
    assert records[0]["found_ap"] is None
    assert records[1]["found_ap"] == pytest.approx(0.85)
    place = HEADINGS.index("found AP")
    assert cells(records[1])[place] == "0.8500 ± 0.0707"
    assert "found AP" in to_markdown(records)
    assert "found AP" not in to_markdown(records[:1])
