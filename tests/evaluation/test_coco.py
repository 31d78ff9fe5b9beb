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
from kpnet.data.formats.coco import COCOLabels
from kpnet.evaluation.average_precision import MEASURES
from kpnet.evaluation.coco import coco_measures, write_results
from kpnet.evaluation.measurement import Predictions
from kpnet.heads import Keypoints
from kpnet.oks import oks_ap

COCO_MINI = SHARED / "data/coco_mini"
SIZE = (64, 48)


@pytest.fixture(scope="module")
def people() -> Any:
    if not COCO_MINI.is_dir():
        pytest.skip(f"no COCO images at {COCO_MINI} (set KPNET_SHARED)")
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
    numbers = np.arange(len(people))
    return Predictions(points, stacked["keypoints"], stacked["visible"], stacked["matrix"], images=numbers)


def test_the_results_are_in_pixels_of_the_images(people: Any, tmp_path: Path) -> None:
    write_results(answers(people, 3.0), people, SIZE, tmp_path / "results.json")
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results) == len(people)
    for i, result in enumerate(results):
        points = np.array(result["keypoints"]).reshape(17, 3)
        known = np.isfinite(people.keypoints(i)).all(-1)
        assert np.abs(points[known, :2] - people.keypoints(i)[known] - (3, 0)).max() < 2e-3
    assert results[0]["score"] > results[-1]["score"]


def published_measures(annotations: Path, results: Path, skeleton: Skeleton) -> dict[str, float]:
    """pycocotools on the file itself, which has all that pycocotools takes for granted."""
    from pycocotools.coco import COCO as Published
    from pycocotools.cocoeval import COCOeval

    truth = Published(str(annotations))
    run: Any = COCOeval(truth, truth.loadRes(str(results)), "keypoints")
    run.params.kpt_oks_sigmas = np.array(skeleton.sigmas)
    run.evaluate()
    run.accumulate()
    run.summarize()
    return dict(zip(MEASURES, map(float, run.stats), strict=True))


@pytest.mark.parametrize(("far", "equal"), [(0, True), (300, False)])
def test_crowds_and_unlabelled_people_count_as_in_pycocotools(
    people: Any, tmp_path: Path, far: float, equal: bool
) -> None:
    """Predictions that lie on another person, on a crowd or nowhere, with scores that differ or are all the same."""
    pytest.importorskip("pycocotools")
    skeleton = Skeleton.load("coco17")
    rng = np.random.default_rng(0)
    write_results(answers(people, 0), people, SIZE, tmp_path / "results.json")
    results = json.loads((tmp_path / "results.json").read_text())
    for result in results:
        points = np.reshape(result["keypoints"], (17, 3))
        points[:, :2] += rng.normal(0, 3, (17, 2)) + rng.uniform(-far, far, 2) * (rng.uniform() < 0.5)
        result["keypoints"] = points.ravel().tolist()
        result["score"] = 1.0 if equal else rng.uniform()
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    expected = published_measures(COCO_MINI / "person_keypoints.json", path, skeleton)
    assert 0 < expected["AP"] < 1
    assert coco_measures(people, path, skeleton) == expected
    assert people.ignored.crowds.any()
    assert not people.ignored.crowds.all()


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
    assert measures == published_measures(COCO_MINI / "person_keypoints.json", tmp_path / "results.json", skeleton)
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


THINGS = Skeleton(("a", "b"), sigmas=(0.05, 0.05))


def things(count: int) -> dict[str, Any]:
    """An instance on each of `count` images, with the least that kpnet needs."""
    return {
        "images": [{"id": n, "file_name": f"{n}.png"} for n in range(1, count + 1)],
        "annotations": [
            {"image_id": n, "category_id": 1, "keypoints": [20 + n, 30, 2, 40, 35 + n, 1]} for n in range(1, count + 1)
        ],
        "categories": [{"id": 1, "name": "thing", "keypoints": ["a", "b"]}],
    }


def measured(folder: Path, values: dict[str, Any], off: float = 0.0) -> float:
    """AP of predictions that are `off` pixels from the points."""
    (folder / "things.json").write_text(json.dumps(values))
    labels = COCOLabels(folder / "things.json")
    rows = zip(labels.image_ids.tolist(), labels.category_ids.tolist(), strict=True)
    results = [
        {"image_id": image, "category_id": category, "score": 1.0,
         "keypoints": np.column_stack([np.nan_to_num(labels.keypoints(index)) + off, np.ones(2)]).ravel().tolist()}
        for index, (image, category) in enumerate(rows)
    ]  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    return coco_measures(folder / "things.json", folder / "results.json", THINGS)["AP"]


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("ids", ["from 1", "from 0", "all the same", "as decimals", "as text", "none", "lists"])
def test_perfect_predictions_have_an_ap_of_1_whatever_the_ids_are(tmp_path: Path, count: int, ids: str) -> None:
    pytest.importorskip("pycocotools")
    values = things(count)
    for number, annotation in enumerate(values["annotations"]):
        annotation["id"] = {
            "from 1": number + 1, "from 0": number, "all the same": 1, "as decimals": number + 1.5,
            "as text": f"a{number}", "none": None, "lists": [number],
        }[ids]  # fmt: skip
    assert measured(tmp_path, values) == pytest.approx(1)
    assert measured(tmp_path, values, off=200) == 0


@pytest.mark.parametrize("ids", [lambda n: n - 1, str, lambda n: f"{n}.png", lambda n: n + 0.5, lambda n: 10**20 + n])
def test_ids_of_images_and_categories_are_of_any_kind(tmp_path: Path, ids: Any) -> None:
    pytest.importorskip("pycocotools")
    values = things(3)
    for image, annotation in zip(values["images"], values["annotations"], strict=True):
        image["id"] = annotation["image_id"] = ids(image["id"])
        annotation["category_id"] = ids(1)
    values["categories"][0]["id"] = ids(1)
    assert measured(tmp_path, values) == pytest.approx(1)


HALF_FILLED: dict[str, dict[str, Any]] = {
    "no box": {"bbox": None, "area": 900},
    "an empty box": {"bbox": []},
    "half a box": {"bbox": [1, 2]},
    "a box of words": {"bbox": ["a", 2, 3, 4]},
    "an area of words": {"area": "large"},
    "an area of 0": {"area": 0},
    "a wrong count": {"num_keypoints": 0},
    "a crowd of words": {"iscrowd": "0"},
    "too few numbers": {"keypoints": [1, 2, 2]},
    "no numbers": {"keypoints": [None] * 6},
    "no keypoints": {"keypoints": None},
    "no category": {"category_id": None},
}


@pytest.mark.parametrize("name", HALF_FILLED)
def test_what_pycocotools_takes_for_granted_is_filled_in(tmp_path: Path, name: str) -> None:
    pytest.importorskip("pycocotools")
    values = things(3)
    values["annotations"][0] |= HALF_FILLED[name]
    assert measured(tmp_path, values) == pytest.approx(1)


def test_a_result_of_an_unknown_image_is_told(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    (tmp_path / "things.json").write_text(json.dumps(things(1)))
    result = {"image_id": 7, "category_id": 1, "keypoints": [0] * 6, "score": 1.0}
    (tmp_path / "results.json").write_text(json.dumps([result]))
    with pytest.raises(KpnetError, match=r"results\.json: image_id 7: the annotations have no such instance"):
        coco_measures(tmp_path / "things.json", tmp_path / "results.json", THINGS)
    with pytest.raises(KpnetError, match="the skeleton has 17 points, and the file has 2"):
        coco_measures(tmp_path / "things.json", tmp_path / "results.json", Skeleton.load("coco17"))
