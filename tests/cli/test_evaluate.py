"""`kpnet evaluate` for a model that finds instances."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.console import Run
from support.shapes import trained_shapes, write_shapes


@pytest.fixture(scope="module")
def finding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a finder and crops, trained for a moment."""
    return trained_shapes(tmp_path_factory.mktemp("finding"))


def test_evaluate_measures_what_the_model_finds(kpnet: Run, finding: Path, tmp_path: Path) -> None:
    done = kpnet("evaluate", finding, "--json", "--coco-results", tmp_path / "results.json")
    measures = json.loads(done.out)["instances"]
    assert (measures["images"], measures["instances"]) == (3, 3)
    assert measures["right"] + measures["missed"] == 3
    assert "coco" not in json.loads(done.out), "which is for the boxes of the file"
    assert isinstance(json.loads((tmp_path / "results.json").read_text()), list)
    text = kpnet("evaluate", finding, "--plot", tmp_path / "reliability.png").out
    assert "instances that it finds itself: 3 images with 3 instances" in text
    assert (tmp_path / "reliability.png").is_file()


def test_data_without_instances_is_refused(kpnet: Run, finding: Path, tmp_path: Path) -> None:
    kpnet("evaluate", finding, write_shapes(tmp_path / "data", [0, 0], seed=2)).refused("labels_2.json")
