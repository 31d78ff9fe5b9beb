"""COCO's results file and pycocotools' AP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.paths import SHARED

from kpnet import KpnetError
from kpnet.config.loading import load_config
from kpnet.coordinates import pixel_to_normalized, transform
from kpnet.core.skeleton import Skeleton
from kpnet.data.build import build_dataset
from kpnet.evaluation.coco import coco_measures, write_results
from kpnet.evaluation.measurement import Predictions
from kpnet.heads import Keypoints
from kpnet.oks import oks_ap

COCO_MINI = SHARED / "data/coco_mini"
pytestmark = pytest.mark.skipif(not COCO_MINI.is_dir(), reason=f"no COCO images at {COCO_MINI} (set KPNET_SHARED)")
SIZE = (64, 48)


@pytest.fixture(scope="module")
def people() -> Any:
    values = {
        "model": {"backbone": "conv_sandwich", "head": "heatmap", "input_size": list(SIZE)},
        "data": {"format": "coco", "root": str(COCO_MINI), "val": "person_keypoints.json", "crop": "box",
                 "skeleton": "coco17"},
    }  # fmt: skip
    config = load_config(values)
    return build_dataset(config.data, config.model, "person_keypoints.json")


def answers(people: Any, off: float) -> Predictions:
    """The true points, moved by `off` pixels of their images; the larger the image's number, the less sure."""
    items = [people[i] for i in range(len(people))]
    xy = []
    for i in range(len(people)):
        moved = np.nan_to_num(people.keypoints(i)) + np.array([off, 0])
        xy.append(pixel_to_normalized(transform(moved, people.sample_pixels(i)[2]), SIZE))
    confidence = torch.linspace(0.9, 0.1, len(people))[:, None].expand(-1, 17)
    stacked = {key: torch.stack([item[key] for item in items]) for key in ("keypoints", "visible", "matrix")}
    points = Keypoints(torch.from_numpy(np.stack(xy)), confidence, None)
    return Predictions(points, stacked["keypoints"], stacked["visible"], stacked["matrix"])


def test_the_results_are_in_pixels_of_the_images(people: Any, tmp_path: Path) -> None:
    write_results(answers(people, 3.0), people, SIZE, tmp_path / "results.json")
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results) == len(people)
    for i, result in enumerate(results):
        points = np.array(result["keypoints"]).reshape(17, 3)
        known = np.isfinite(people.keypoints(i)).all(-1)
        assert np.abs(points[known, :2] - people.keypoints(i)[known] - (3, 0)).max() < 2e-3
    assert results[0]["score"] > results[-1]["score"]


@pytest.mark.parametrize(("off", "low", "high"), [(0.0, 0.999, 1.0), (8.0, 0.1, 0.9)])
def test_ap_is_pycocotools_and_agrees_with_ours(
    people: Any, tmp_path: Path, off: float, low: float, high: float
) -> None:
    pytest.importorskip("pycocotools")
    skeleton = Skeleton.load("coco17")
    assert skeleton.sigmas is not None
    given = answers(people, off)
    source = write_results(given, people, SIZE, tmp_path / "results.json")
    measures = coco_measures(source, tmp_path / "results.json", skeleton)
    assert low <= measures["AP"] <= high
    results = json.loads((tmp_path / "results.json").read_text())
    images = sorted({r["image_id"] for r in results})
    rows = [[i for i, r in enumerate(results) if r["image_id"] == image] for image in images]
    found = [np.array([np.reshape(results[i]["keypoints"], (17, 3))[:, :2] for i in row]) for row in rows]
    truth = [np.array([people.keypoints(i) for i in row]) for row in rows]
    ours = oks_ap(
        found,
        [np.array([results[i]["score"] for i in row]) for row in rows],
        truth,
        [np.isfinite(t).all(-1) for t in truth],
        [people.areas[row] for row in rows],
        skeleton.sigmas,
    )
    assert measures["AP50"] == pytest.approx(ours["AP50"], abs=0.03), "which knows no crowds and no unlabelled people"


def test_other_data_and_skeletons_are_told(people: Any, tmp_path: Path) -> None:
    from kpnet.data import SyntheticFaces

    with pytest.raises(KpnetError, match="--coco-results needs COCO JSON"):
        write_results(answers(people, 0), SyntheticFaces(2), SIZE, tmp_path / "results.json")
    with pytest.raises(KpnetError, match="sigmas"):
        coco_measures(tmp_path, tmp_path, Skeleton.from_names(["a"]))


def test_what_pycocotools_takes_for_granted_is_filled_in(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    points = [20, 30, 2, 40, 35, 2]
    values = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "keypoints": points}, {"id": 2, "image_id": 1}],
        "categories": [{"id": 1, "name": "thing", "keypoints": ["a", "b"]}],
    }
    (tmp_path / "things.json").write_text(json.dumps(values))
    result = {"image_id": 1, "category_id": 1, "keypoints": points, "score": 1.0}
    (tmp_path / "results.json").write_text(json.dumps([result]))
    skeleton = Skeleton(("a", "b"), sigmas=(0.05, 0.05))
    assert coco_measures(tmp_path / "things.json", tmp_path / "results.json", skeleton)["AP"] == pytest.approx(1)
