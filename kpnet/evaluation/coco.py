"""COCO's own evaluation of a model's predictions: a results file, and the AP and AR of pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kpnet import coordinates
from kpnet.core.errors import KpnetError
from kpnet.core.files import write_atomic
from kpnet.core.skeleton import Skeleton
from kpnet.data import COCO
from kpnet.data.base import KeypointDataset
from kpnet.data.formats.coco import COCOLabels, annotation_values
from kpnet.data.wrappers.concat import ConcatDataset
from kpnet.evaluation.measurement import Predictions

MEASURES = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")


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


def _source(dataset: KeypointDataset) -> COCO:
    """Return the COCO dataset of which `dataset` has all samples and points; raise if there is none."""
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
        The ten measures of `MEASURES` by name.

    Raises:
        KpnetError: pycocotools is not installed, the skeleton has no sigmas or other points, or a result is of an image
            or a category that the annotations lack.
    """
    if skeleton.sigmas is None:
        raise KpnetError("COCO's AP needs the skeleton's `sigmas`, as `skeleton: coco17` has them")
    try:
        from pycocotools.coco import COCO as Truth
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise KpnetError("COCO's AP needs pycocotools: pip install pycocotools") from None
    labels = annotations if isinstance(annotations, COCO) else COCOLabels(annotations)
    if len(labels.skeleton) != len(skeleton):
        raise KpnetError(f"COCO's AP: the skeleton has {len(skeleton)} points, and the file has {len(labels.skeleton)}")
    images, categories = _numbers(labels.image_ids), _numbers(labels.category_ids)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = Truth()
        truth.dataset = {
            "images": [{"id": number} for number in images.values()],
            "categories": [{"id": number} for number in categories.values()],
            "annotations": _truth(labels, images, categories),
        }
        truth.createIndex()
        run: Any = COCOeval(truth, truth.loadRes(_numbered(results, images, categories)), "keypoints")
        run.params.kpt_oks_sigmas = np.array(skeleton.sigmas)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return dict(zip(MEASURES, map(float, run.stats), strict=True))


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
    return [{"id": number, **row} for number, row in enumerate(rows, start=1)]


def _numbered(path: Path, images: dict[Any, int], categories: dict[Any, int]) -> list[dict[str, Any]]:
    """Return the results of a file with the numbers of their images and categories."""
    rows = json.loads(path.read_text(encoding="utf-8-sig"))
    for row in rows:
        for key, numbers in (("image_id", images), ("category_id", categories)):
            if row[key] not in numbers:
                raise KpnetError(f"{path}: {key} {row[key]}: the annotations have no such instance")
            row[key] = numbers[row[key]]
    return list(rows)
