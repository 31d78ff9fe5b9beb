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
from kpnet.data.wrappers.concat import ConcatDataset
from kpnet.evaluation.measurement import Predictions

MEASURES = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")


def write_results(predictions: Predictions, dataset: KeypointDataset, size: tuple[int, int], path: Path) -> Path:
    """Write a COCO results file (https://cocodataset.org/#format-results), in pixels of the original images.

    Args:
        predictions: The predictions of every sample of `dataset`.
        dataset: A COCO dataset with the model's points, in their order.
        size: The model's input size (H, W).
        path: The file to write.

    Returns:
        The path of the annotation file. A sample's score is the mean confidence of its points, or 1 without one.

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
    return source.source


def _source(dataset: KeypointDataset) -> COCO:
    """Return the COCO dataset of which `dataset` has all samples and points; raise if there is none."""
    if isinstance(dataset, ConcatDataset) and len(dataset.parts) == 1 and dataset.parts[0].count is None:
        inner = dataset.parts[0].dataset
        if inner.skeleton.names == dataset.skeleton.names:
            dataset = inner
    if not isinstance(dataset, COCO):
        raise KpnetError("--coco-results needs COCO JSON with the model's points, in their order, as DATA")
    return dataset


def _whole(values: dict[str, Any]) -> dict[str, Any]:
    """Fill in what pycocotools requires of annotations and kpnet does not: box, area, crowd flag, count."""
    kept = [a for a in values["annotations"] if isinstance(a, dict) and a.get("keypoints")]
    for annotation in kept:
        points = np.reshape(annotation["keypoints"], (-1, 3))
        known = points[points[:, 2] > 0, :2]
        low, high = (known.min(0), known.max(0)) if len(known) else (np.zeros(2), np.zeros(2))
        annotation.setdefault("bbox", [*low.tolist(), *(high - low).tolist()])
        annotation.setdefault("area", float(np.prod(annotation["bbox"][2:])))
        annotation.setdefault("iscrowd", 0)
        annotation.setdefault("num_keypoints", len(known))
    return {**values, "annotations": kept}


def coco_measures(annotations: Path, results: Path, skeleton: Skeleton) -> dict[str, float]:
    """Measure AP and AR of a results file over OKS, with pycocotools (Lin et al. 2014, Microsoft COCO).

    Args:
        annotations: The COCO annotation file.
        results: The results file of `write_results`.
        skeleton: The skeleton whose sigmas OKS uses.

    Returns:
        The ten measures of `MEASURES` by name.

    Raises:
        KpnetError: pycocotools is not installed, or the skeleton has no sigmas.
    """
    if skeleton.sigmas is None:
        raise KpnetError("COCO's AP needs the skeleton's `sigmas`, as `skeleton: coco17` has them")
    try:
        from pycocotools.coco import COCO as Truth
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise KpnetError("COCO's AP needs pycocotools: pip install pycocotools") from None
    with contextlib.redirect_stdout(io.StringIO()):
        truth = Truth()
        truth.dataset = _whole(json.loads(annotations.read_text(encoding="utf-8-sig")))
        truth.createIndex()
        run: Any = COCOeval(truth, truth.loadRes(str(results)), "keypoints")
        run.params.kpt_oks_sigmas = np.array(skeleton.sigmas)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return dict(zip(MEASURES, map(float, run.stats), strict=True))
