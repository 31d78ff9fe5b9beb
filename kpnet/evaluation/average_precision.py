"""AP and AR of pycocotools."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from kpnet.oks import MAX_DETECTIONS

MEASURES = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")


def has_pycocotools() -> bool:
    """Return whether pycocotools, an extra, is installed."""
    return importlib.util.find_spec("pycocotools") is not None


def run_pycocotools(
    images: list[int],
    categories: list[int],
    annotations: list[dict[str, Any]],
    results: list[dict[str, Any]],
    sigmas: Sequence[float],
    limit: int = MAX_DETECTIONS,
) -> dict[str, float]:
    """Measure AP and AR with pycocotools, which has to be installed.

    Args:
        images: Ids of the images.
        categories: Ids of the categories.
        annotations: The truth, as rows of a COCO file.
        results: The detections, as rows of a results file; at least one.
        sigmas: Constants (K,) of the keypoints.
        limit: Detections of each image that count, those of the highest scores.

    Returns:
        The ten measures of `MEASURES` by name; -1 where there is no instance to find.
    """
    from pycocotools.coco import COCO as Truth
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = Truth()
        truth.dataset = {
            "images": [{"id": number} for number in images],
            "categories": [{"id": number} for number in categories],
            "annotations": [{"id": number, **row} for number, row in enumerate(annotations, start=1)],
        }
        truth.createIndex()
        run: Any = COCOeval(truth, truth.loadRes(results), "keypoints")
        run.params.kpt_oks_sigmas = np.array(sigmas)
        run.params.maxDets = [limit]
        run.evaluate()
        run.accumulate()
    # Its own summary knows no limit but 20.
    precision, recall = run.eval["precision"][..., 0], run.eval["recall"][..., 0]
    half, three_quarters = 0, 5  # of the thresholds 0.50:0.05:0.95
    everything, medium, large = 0, 1, 2  # of the area ranges
    found = [
        values[thresholds, ..., area]
        for values in (precision, recall)
        for thresholds, area in (
            (slice(None), everything),
            ([half], everything),
            ([three_quarters], everything),
            (slice(None), medium),
            (slice(None), large),
        )
    ]
    known = [values[values > -1] for values in found]
    return {name: float(values.mean()) if values.size else -1.0 for name, values in zip(MEASURES, known, strict=True)}
