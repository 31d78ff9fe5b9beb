"""COCO's own evaluation of a model's predictions: a results file, and its AP and AR."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kpnet import coordinates
from kpnet.core.errors import KpnetError
from kpnet.core.files import write_atomic
from kpnet.core.reading import read_json
from kpnet.core.skeleton import Skeleton
from kpnet.data import COCO
from kpnet.data.base import KeypointDataset
from kpnet.data.formats.coco import COCOLabels, annotation_values
from kpnet.data.wrappers.concat import ConcatDataset
from kpnet.data.wrappers.scenes import Scenes
from kpnet.evaluation.average_precision import has_pycocotools, run_pycocotools
from kpnet.evaluation.matching import rank_scores
from kpnet.evaluation.measurement import Predictions
from kpnet.inference.prediction import Prediction


def write_results(predictions: Predictions, dataset: KeypointDataset, size: tuple[int, int], path: Path) -> COCO:
    """Write a COCO results file (https://cocodataset.org/#format-results), in pixels of the original images.

    Its ids are those of the annotation file. A sample's score is the mean confidence of its points, or 1 without one.

    Args:
        predictions: The predictions of every sample of `dataset`.
        dataset: A COCO dataset with the model's points, in their order.
        size: The model's input size (H, W).
        path: The file to write.

    Returns:
        The COCO dataset, for `coco_measures`.

    Raises:
        KpnetError: The data is not COCO JSON, or has other points than the model.
    """
    source = _source(dataset)
    xy = coordinates.normalized_to_pixel(predictions.predicted.keypoints.double(), size)
    linear, moved = predictions.matrix[:, :, :2].double(), predictions.matrix[:, :, 2].double()
    places = torch.linalg.solve(linear, (xy - moved[:, None]).mT).mT
    confidence = predictions.predicted.confidence
    scores = torch.ones(len(xy)) if confidence is None else confidence.double().mean(-1)
    ones = torch.ones(*places.shape[:2], 1, dtype=torch.float64)
    rows = torch.cat([places, ones], -1).flatten(1).numpy().round(4)
    results = [
        {"image_id": image, "category_id": category, "keypoints": row, "score": score}
        for image, category, row, score in zip(
            source.image_ids.tolist(), source.category_ids.tolist(), rows.tolist(), scores.tolist(), strict=True
        )
    ]
    write_atomic(path, json.dumps(results).encode())
    return source


def write_found(found: Sequence[Prediction], scenes: Scenes, path: Path) -> None:
    """Write what was found as a COCO results file (https://cocodataset.org/#format-results), with all scores.

    Args:
        found: What was found in each image.
        scenes: The images, of COCO data.
        path: The file to write.

    Raises:
        KpnetError: The data is not COCO JSON with the model's points, or has instances of several categories.
    """
    source = _source(scenes.dataset)
    categories = set(source.category_ids.tolist())
    if len(categories) != 1:
        raise KpnetError(
            f"--coco-results: expected instances of one category, found {len(categories)} in {source.source}"
        )
    ids = {str(each["file_name"]): each["id"] for each in read_json(source.source, "COCO JSON")["images"]}
    results = []
    for index, prediction in enumerate(found):
        points = np.asarray(prediction.keypoints, float)
        rows = np.concatenate([points, np.ones((*points.shape[:2], 1))], -1).round(4)
        for row, score in zip(rows, rank_scores(prediction), strict=True):
            results.append(
                {
                    "image_id": ids[scenes.image_name(index)],
                    "category_id": next(iter(categories)),
                    "keypoints": row.ravel().tolist(),
                    "score": float(score),
                }
            )
    write_atomic(path, json.dumps(results).encode())


def _source(dataset: KeypointDataset) -> COCO:
    """Return the COCO dataset of which `dataset` has all samples and points; raise KpnetError if there is none."""
    if isinstance(dataset, ConcatDataset) and len(dataset.parts) == 1 and dataset.parts[0].count is None:
        inner = dataset.parts[0].dataset
        if inner.skeleton.names == dataset.skeleton.names:
            dataset = inner
    if not isinstance(dataset, COCO):
        raise KpnetError("--coco-results needs COCO JSON with the model's points, in their order, as DATA")
    return dataset


def coco_measures(annotations: COCO | str | Path, results: Path, skeleton: Skeleton) -> dict[str, float]:
    """Measure AP and AR of a results file over OKS, with pycocotools (Lin et al. 2014, Microsoft COCO).

    pycocotools gets the annotations as kpnet read them, and not the file: with ids of their own, and with a box, an
    area and a count of points in each. An instance without a box or an area has that of its points.

    Args:
        annotations: A COCO dataset, or the annotation file, whose images need not exist.
        results: The results file of `write_results`.
        skeleton: The skeleton whose sigmas OKS uses.

    Returns:
        The ten measures of `average_precision.MEASURES` by name.

    Raises:
        KpnetError: pycocotools is not installed, the skeleton has no sigmas or other points, or a result is of an image
            or a category that the annotations lack.
    """
    if skeleton.sigmas is None:
        raise KpnetError("COCO's AP needs the skeleton's `sigmas`, as `skeleton: coco17` has them")
    if not has_pycocotools():
        raise KpnetError("COCO's AP needs pycocotools: pip install pycocotools")
    labels = annotations if isinstance(annotations, COCO) else COCOLabels(annotations)
    if len(labels.skeleton) != len(skeleton):
        raise KpnetError(f"COCO's AP: the skeleton has {len(skeleton)} points, and the file has {len(labels.skeleton)}")
    images, categories = _numbers(labels.image_ids), _numbers(labels.category_ids)
    rows = _truth(labels, images, categories)
    found = _numbered(results, images, categories)
    return run_pycocotools(list(images.values()), list(categories.values()), rows, found, skeleton.sigmas)


def _numbers(ids: np.ndarray) -> dict[Any, int]:
    """Number ids from 1, in their order: pycocotools takes images in that order where scores are equal."""
    different = set(ids.tolist())
    return {each: number for number, each in enumerate(sorted(different, key=_order), start=1)}


def _order(value: Any) -> tuple[bool, Any]:
    return isinstance(value, str), value


def _truth(labels: COCO | COCOLabels, images: dict[Any, int], categories: dict[Any, int]) -> list[dict[str, Any]]:
    """Return the samples, and what COCO ignores on their images, as pycocotools has annotations."""
    rows = []
    ids = zip(labels.image_ids.tolist(), labels.category_ids.tolist(), labels.areas.tolist(), strict=True)
    for index, (image, category, area) in enumerate(ids):
        row = annotation_values(labels.keypoints(index), labels.visibility(index), labels.box(index), area)
        rows.append({"image_id": images[image], "category_id": categories[category], "iscrowd": 0, **row})
    other = labels.ignored
    for index, (image, category) in enumerate(zip(other.image_ids.tolist(), other.category_ids.tolist(), strict=True)):
        if category in categories:
            seen = np.where(np.isfinite(other.keypoints[index]).all(-1), 2, 0)
            row = annotation_values(other.keypoints[index], seen, other.boxes[index], float(other.areas[index]))
            crowd = int(other.crowds[index])
            rows.append({"image_id": images[image], "category_id": categories[category], "iscrowd": crowd, **row})
    return rows


def _numbered(path: Path, images: dict[Any, int], categories: dict[Any, int]) -> list[dict[str, Any]]:
    """Return the results of a file with the numbers of their images and categories."""
    rows = json.loads(path.read_text(encoding="utf-8-sig"))
    for row in rows:
        for key, numbers in (("image_id", images), ("category_id", categories)):
            if row[key] not in numbers:
                raise KpnetError(f"{path}: {key} {row[key]}: the annotations have no such instance")
            row[key] = numbers[row[key]]
    return list(rows)
