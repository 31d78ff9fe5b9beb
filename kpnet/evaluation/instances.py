"""Measures of the instances that a model found itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from kpnet.coordinates import box_to_corner_size
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data.formats.coco import annotation_values
from kpnet.evaluation.average_precision import MEASURES, has_pycocotools, run_pycocotools
from kpnet.evaluation.matching import FoundInstances, Matches, TrueInstances, match_instances, rank_scores
from kpnet.evaluation.reliability import calibration_error, reliability_diagram
from kpnet.metrics import normalizers, point_errors
from kpnet.oks import MAX_DETECTIONS, oks_ap, sigmas_of

WORST = 10  # images that are named
EVERYWHERE = 1e7  # pixels: the half side of a box that holds every detection of an image


def evaluate_instances(
    predictions: Iterable[FoundInstances],
    truth: Iterable[TrueInstances],
    skeleton: Skeleton,
    *,
    threshold: float = 0.0,
    nme: str | tuple[str, str] | None = None,
) -> dict[str, Any]:
    """Measure the instances that were found in images, in pixels of the images.

    A detection is right if its OKS with a true instance, which no detection of a higher score has taken, is at least
    0.5. In an ignored region, and in a partly labelled image, a detection that matches nothing is neither right nor
    wrong.

    Args:
        predictions: What was found in each image, with all its scores: AP and AR need those below the threshold, too.
        truth: What is in each image, in the same order.
        skeleton: The keypoints. Without `sigmas`, that of every keypoint is 0.05.
        threshold: Least score of a detection that counts as found, for all measures but AP, AR and reliability.
        nme: Names of two points whose distance the NME divides by. None: those of the skeleton. With any other length,
            or without one, it divides by the square root of the box's area.

    Returns:
        A dict of:

        - `images`, `instances`, `partial_images`: How many there are, without ignored instances.
        - `threshold`, `sigmas`: The threshold, and the constants of the keypoints; `default_sigmas` says whether the
          skeleton has none.
        - `AP`, `AP50`, `AP75`, `APM`, `APL`, `AR`, …: COCO's measures, NaN where there is nothing to find, by
          pycocotools if it is installed, else by `kpnet.oks.oks_ap` (`ap_by`). Up to 20 detections of an image count,
          or as many as the fullest image has instances.
        - `found`, `right`, `false`, `missed`; `precision`, `recall` and `f1` of the instances.
        - `mre_px`, `nme`, `nme_by`, `points`: Mean radial error and NME of the points of right detections.
        - `count_mae`, `count_right`: Mean absolute error of the number of instances in an image, and the share of
          images in which it is right, without the partly labelled ones.
        - `reliability`: `score_reliability` of all detections.
        - `worst`: Up to 10 images with missed or false instances, most of them first: `image`, `index`, `missed`,
          `false`.

    Raises:
        KpnetError: No image has an instance with a labelled point.
        ValueError: There are more images of one than of the other, or shapes do not fit.

    Example:
        ```python
        evaluate_instances([predictor(file) for file in files], truth, model.skeleton)["AP"]
        ```
    """
    found, there, sigmas = list(predictions), list(truth), sigmas_of(skeleton)
    matches = match_instances(found, there, sigmas)
    if not len(matches.instances):
        raise KpnetError("nothing to evaluate: no image of the data has an instance with a labelled point")
    expected = [getattr(each, "expected_oks", None) for each in found]
    known = np.array([np.nan if v is None else v[r] for v, r in _rows(expected, matches)], float)
    return {
        "images": len(there),
        "instances": len(matches.instances),
        "partial_images": sum(bool(each.partial) for each in there),
        "threshold": float(threshold),
        "sigmas": list(map(float, sigmas)),
        "default_sigmas": skeleton.sigmas is None,
        **_average_precision(found, there, matches, sigmas),
        **_detection(matches, threshold),
        **_point_errors(found, there, matches, threshold, skeleton, nme),
        **_counts(matches, there, threshold),
        "reliability": score_reliability(matches, known),
        "worst": _worst(matches, there, threshold),
    }


def _rows(values: Sequence[Any], matches: Matches) -> list[tuple[Any, int]]:
    """Return each detection's value of its image, and its row."""
    return [(values[image], row) for image, row in zip(matches.image.tolist(), matches.row.tolist(), strict=True)]


def _detection(matches: Matches, threshold: float) -> dict[str, Any]:
    """Return right, false and missed instances, with precision, recall and F1."""
    kept = matches.counted & (matches.score >= threshold)
    right, there = int((kept & matches.right).sum()), len(matches.instances)
    found = int(kept.sum())
    return {
        "found": found,
        "right": right,
        "false": found - right,
        "missed": there - right,
        "precision": right / found if found else float("nan"),
        "recall": right / there,
        "f1": 2 * right / (found + there),
    }


def _counts(matches: Matches, truth: Sequence[TrueInstances], threshold: float) -> dict[str, float]:
    """Return the errors of the number of instances in the images that are labelled entirely."""
    whole = np.array([not each.partial for each in truth], bool)
    kept = matches.image[matches.counted & (matches.score >= threshold)]
    found = np.bincount(kept, minlength=len(truth))[whole]
    error = np.abs(found - np.bincount(matches.instances[:, 0], minlength=len(truth))[whole])
    if not len(error):
        return {"count_mae": float("nan"), "count_right": float("nan")}
    return {"count_mae": float(error.mean()), "count_right": float((error == 0).mean())}


def _worst(matches: Matches, truth: Sequence[TrueInstances], threshold: float) -> list[dict[str, Any]]:
    """Return the images with the most missed and false instances."""
    wrong = matches.counted & ~matches.right & (matches.score >= threshold)
    false = np.bincount(matches.image[wrong], minlength=len(truth))
    missed = np.bincount(matches.missed(threshold)[:, 0], minlength=len(truth))
    order = np.argsort(-(false + missed), kind="stable")[:WORST]
    return [
        {"image": truth[i].image, "index": int(i), "missed": int(missed[i]), "false": int(false[i])}
        for i in order
        if false[i] + missed[i]
    ]


def _point_errors(
    found: Sequence[FoundInstances],
    truth: Sequence[TrueInstances],
    matches: Matches,
    threshold: float,
    skeleton: Skeleton,
    nme: str | tuple[str, str] | None,
) -> dict[str, Any]:
    """Return the errors of the points of right detections."""
    kept = np.flatnonzero(matches.right & (matches.score >= threshold))
    pairs = [(int(matches.image[d]), int(matches.row[d]), int(matches.target[d])) for d in kept]
    points = len(skeleton)

    def stacked(values: list[np.ndarray], *shape: int) -> torch.Tensor:
        return torch.from_numpy(np.array(values).reshape(-1, *shape))

    predicted = stacked([found[i].keypoints[row] for i, row, _ in pairs], points, 2).double()
    target = stacked([truth[i].points[row] for i, _, row in pairs], points, 2).double()
    visible = stacked([truth[i].visible[row] for i, _, row in pairs], points).bool()
    boxes = stacked([truth[i].boxes[row] for i, _, row in pairs], 4).double()
    errors = point_errors(predicted, target, visible)
    by = nme or skeleton.nme
    if by is None or isinstance(by, str):  # the diagonal of a whole image says nothing of an instance
        areas = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1)
        lengths, name = torch.where(areas > 0, areas.sqrt(), torch.nan), "box of the instance"
    else:
        lengths, name = normalizers(target, visible, skeleton, (1, 1), by)
    return {
        "mre_px": float(errors.nanmean()),
        "nme": float((errors.nanmean(-1) / lengths).nanmean()),
        "nme_by": name,
        "points": int(visible.sum()),
    }


def _average_precision(
    found: Sequence[FoundInstances], truth: Sequence[TrueInstances], matches: Matches, sigmas: Sequence[float]
) -> dict[str, Any]:
    """Return COCO's measures, by pycocotools where it is installed."""
    limit = max(MAX_DETECTIONS, int(np.bincount(matches.instances[:, 0]).max()))
    if has_pycocotools() and len(matches.image):
        images = list(range(1, len(truth) + 1))
        rows = [row for number, each in zip(images, truth, strict=True) for row in _annotations(number, each)]
        results = [row for number, each in zip(images, found, strict=True) for row in _results(number, each)]
        measures = run_pycocotools(images, [1], rows, results, sigmas, limit)
        return {**{k: v if v > -1 else float("nan") for k, v in measures.items()}, "ap_by": "pycocotools"}
    # It knows no regions: detections that are neither right nor wrong are left out beforehand.
    kept = [matches.row[(matches.image == i) & matches.counted] for i in range(len(found))]
    real = [each.visible.any(-1) for each in truth]
    ours = oks_ap(
        [each.keypoints[rows] for each, rows in zip(found, kept, strict=True)],
        [rank_scores(each)[rows] for each, rows in zip(found, kept, strict=True)],
        [each.points[rows] for each, rows in zip(truth, real, strict=True)],
        [each.visible[rows] for each, rows in zip(truth, real, strict=True)],
        [each.areas[rows] for each, rows in zip(truth, real, strict=True)],
        sigmas,
        max_detections=limit,
    )
    return {**{name: ours[name] for name in MEASURES}, "ap_by": "kpnet"}


def _annotations(image: int, truth: TrueInstances) -> list[dict[str, Any]]:
    """Return the instances and the ignored regions of an image as pycocotools has annotations."""
    rows = []
    real = truth.visible.any(-1)
    for row in np.flatnonzero(real):
        values = annotation_values(
            truth.points[row], np.where(truth.visible[row], 2, 0), truth.boxes[row], float(truth.areas[row])
        )
        rows.append({**values, "iscrowd": 0})
    regions = [*truth.ignored, *truth.boxes[~real]]
    if truth.partial:
        regions.append(np.array([-EVERYWHERE, -EVERYWHERE, EVERYWHERE, EVERYWHERE]))
    none = np.full((truth.points.shape[1], 2), np.nan)
    for box in (each for each in regions if np.isfinite(each).all()):
        area = float(box_to_corner_size(box)[2:].prod())
        rows.append({**annotation_values(none, np.zeros(len(none)), box, area), "iscrowd": 1})
    return [{"image_id": image, "category_id": 1, **row} for row in rows]


def _results(image: int, found: FoundInstances) -> list[dict[str, Any]]:
    points = np.asarray(found.keypoints, float)
    triples = np.concatenate([points, np.ones((*points.shape[:2], 1))], -1)
    return [
        {"image_id": image, "category_id": 1, "keypoints": row.ravel().tolist(), "score": score}
        for row, score in zip(triples, rank_scores(found).tolist(), strict=True)
    ]


def score_reliability(matches: Matches, expected_oks: np.ndarray | None = None) -> dict[str, Any]:
    """Compare the scores of detections with the share of them that is right.

    Args:
        matches: The detections.
        expected_oks: Expected OKS (D,) of each; NaN or None without one.

    Returns:
        A dict of `ece`, the expected calibration error of the score over 10 bins of equal width, and `diagram`, the
        bins that hold a detection: mean `score`, share that is `right`, number of `detections`. With expected OKS also
        `oks_error` and `oks_diagram`, of mean `expected` and actual `oks`. Empty without detections that count.
    """
    if not matches.counted.any():
        return {}
    score, right, oks = (x[matches.counted] for x in (matches.score, matches.right.astype(float), matches.oks))
    rows = reliability_diagram(torch.from_numpy(score), torch.from_numpy(right))
    measures: dict[str, Any] = {
        "ece": calibration_error(rows),
        "diagram": [{"score": r["confidence"], "right": r["right"], "detections": r["points"]} for r in rows],
    }
    expected = np.full(len(score), np.nan) if expected_oks is None else expected_oks[matches.counted]
    if np.isfinite(expected).all():
        rows = reliability_diagram(torch.from_numpy(expected), torch.from_numpy(oks))
        measures["oks_error"] = calibration_error(rows)
        measures["oks_diagram"] = [
            {"expected": r["confidence"], "oks": r["right"], "detections": r["points"]} for r in rows
        ]
    return measures
