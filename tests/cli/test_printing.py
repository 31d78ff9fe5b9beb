"""Measures as text and as JSON."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from support.four_points import PAIR, SIZE, example
from support.scenes import found_at, truth_at

from kpnet.cli.printing import print_groups, print_instances, print_measures
from kpnet.core.files import plain
from kpnet.core.skeleton import Skeleton
from kpnet.evaluation.instances import evaluate_instances
from kpnet.metrics import evaluate_points


def test_measures_as_text_and_as_json() -> None:
    predicted, target, visible = example()
    visible[:, 3] = False
    found = {**evaluate_points(predicted, target, visible, PAIR, SIZE), "images": len(target)}
    text = json.dumps(plain(found), allow_nan=False)
    assert json.loads(text)["per_group"]["chin"]["nme"] is None
    nothing = evaluate_points(predicted[:0], target[:0], visible[:0], PAIR, SIZE)
    assert json.loads(json.dumps(plain(nothing), allow_nan=False))["ced_curve"]["share"] == [None] * 20
    shown = io.StringIO()
    console = Console(file=shown, width=100)
    print_measures(console, found, "faces")
    print_groups(console, found["per_group"])
    print_groups(console, {})
    for part in (
        f"NME     {100 * found['nme']:.3f} % of the distance from left_eye to right_eye, over 2 images",
        f"{100 * found['failure_rate']:.2f} % of the images, with an NME above 10 %",
        f"AUC {found['ced_auc']:.4f}",
        f"AUC {found['pck_auc']:.4f} up to 10 %",
    ):
        assert part in shown.getvalue()
    print_measures(console, {**found, "images": 3}, "people")
    for part in (
        f"people: {len(target)} instances in 3 images, ",
        "over 2 instances",
        "% of the instances, with an NME above 10 %",
    ):
        assert part in shown.getvalue()
    rows = [line.split("│")[1:-1] for line in shown.getvalue().splitlines() if line.startswith("│")]
    assert [row[0].strip() for row in rows] == ["eye", "nose", "chin"]
    assert float(rows[0][5]) == pytest.approx(100 * found["per_group"]["eye"]["nme"], abs=1e-3)


def test_the_pass_mark_is_that_of_the_course_alone() -> None:
    found = {**evaluate_points(*example(), PAIR, SIZE), "images": 1}

    def score(value: float, **options: str) -> str:
        shown = io.StringIO()
        print_measures(Console(file=shown, width=100), {**found, "score": value}, "faces", **options)
        return next(line for line in shown.getvalue().splitlines() if line.startswith("  score"))

    assert score(100.0, skeleton="facial15").endswith("(1 / (2 MSE); passes the course's 100)")
    assert score(99.9, skeleton="facial15").endswith("(1 / (2 MSE); below the course's 100)")
    assert score(99.9, skeleton="face5").endswith("(1 / (2 MSE))")
    assert score(99.9).endswith("(1 / (2 MSE))")


def test_found_instances_as_text_and_as_json() -> None:
    """Two of three are found, and one that is not there; the skeleton has no sigmas."""
    found = [found_at([(30, 30), (80, 30), (150, 150)], [0.9, 0.8, 0.7])]
    measures = evaluate_instances(
        found, [truth_at([(30, 30), (80, 30), (30, 80)])], Skeleton(("a", "b", "c")), threshold=0.3
    )
    assert json.loads(json.dumps(plain(measures), allow_nan=False))["APL"] is None
    shown = io.StringIO()
    print_instances(Console(file=shown, width=100), measures)
    text = shown.getvalue()
    for part in (
        "1 images with 3 instances",
        "a sigma of 0.05 for every point, as the skeleton has none",
        "found   2 of 3 (recall 66.67 %), 1 false (precision 66.67 %), F1 0.6667; scores of at least 0.3",
        "MRE 0.000 px",
        "0.000 instances too many or too few in an image, 100.00 % of the images with the right number",
        "errors  a.png (1 missed, 1 false)",
    ):
        assert part in text
    assert "expected OKS" not in text


def test_a_model_that_finds_nothing_has_no_lines_of_what_it_found() -> None:
    measures = evaluate_instances([found_at([], [])], [truth_at([(30, 30)], partial=True)], Skeleton(("a", "b", "c")))
    shown = io.StringIO()
    print_instances(Console(file=shown, width=100), measures)
    assert "found   0 of 1 (recall 0.00 %), 0 false, F1" in shown.getvalue()
    assert "1 of them partly labelled" in shown.getvalue()
    assert "nan" not in shown.getvalue()
    assert "counts" not in shown.getvalue()
