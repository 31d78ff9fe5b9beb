"""The report's gallery of found instances: the images with the most missed and false ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kpnet.data.wrappers.scenes import Scenes, SceneTruth
from kpnet.evaluation.found import scenes_of, score_threshold
from kpnet.evaluation.matching import match_instances
from kpnet.evaluation.run_data import validation_dataset
from kpnet.experiments.report.charts import ReportRow
from kpnet.experiments.report.gallery import NARROWEST, WIDEST, image_uri
from kpnet.inference.prediction import Prediction
from kpnet.inference.predictor import Predictor
from kpnet.models.build import load_model
from kpnet.models.keypoint_model import KeypointModel
from kpnet.oks import sigmas_of

SHOWN = 3  # images of each row


@dataclass
class FoundBox:
    """A box on an image of the gallery, in its pixels, and its kind: `right`, `false`, `missed` or `neither`."""

    x: float
    y: float
    width: float
    height: float
    kind: str


@dataclass
class FoundView:
    """What a row found in an image.

    Attributes:
        row: Name of the row.
        text: How many are missed and false.
        boxes: Found and missed instances.
        points: Points (x, y) of the found ones.
    """

    row: str
    text: str
    boxes: list[FoundBox]
    points: list[tuple[float, float]]


@dataclass
class FoundImage:
    """An image of the gallery: its name, size in pixels, width on the page, data URI, and what each row found in it."""

    title: str
    width: int
    height: int
    shown: int
    image: str
    views: list[FoundView]


def build_found_gallery(rows: Sequence[ReportRow]) -> list[FoundImage]:
    """Return the images with the most missed and false instances of each row's first run, or else the first image.

    Rows whose models find no instances, and those measured on other images than the first one that does, are left out.
    """
    opened: list[tuple[ReportRow, KeypointModel, Predictor, Scenes]] = []
    for row in (each for each in rows if "instances" in each.results[0].measures):
        model = load_model(row.runs[0])
        scenes = scenes_of(model, validation_dataset(row.runs[0], model))
        if not opened or _names(scenes) == _names(opened[0][3]):
            opened.append((row, model, Predictor(model), scenes))
    chosen = [each["index"] for row, *_ in opened for each in _worst(row)[:SHOWN]] or [0] * bool(opened)
    gallery = []
    for index in dict.fromkeys(chosen):
        scenes = opened[0][3]
        pixels, truth = scenes.image(index), scenes.truth(index)
        height, width = pixels.shape[:2]
        views = [_view(row.name, model, predictor, pixels, truth) for row, model, predictor, _ in opened]
        shown = min(max(2 * width, NARROWEST), WIDEST)
        gallery.append(FoundImage(scenes.image_name(index), width, height, shown, image_uri(pixels), views))
    return gallery


def _names(scenes: Scenes) -> list[str]:
    return [scenes.image_name(index) for index in range(len(scenes))]


def _worst(row: ReportRow) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = row.results[0].measures["instances"]["worst"]
    return found


def _view(row: str, model: KeypointModel, predictor: Predictor, pixels: np.ndarray, truth: SceneTruth) -> FoundView:
    """Return what a model finds in an image, above its own threshold."""
    found: Prediction = predictor(pixels)
    matches = match_instances([found], [truth], sigmas_of(model.skeleton))
    kinds = np.where(matches.right, "right", np.where(matches.counted, "false", "neither"))
    missed = matches.missed(score_threshold(model))[:, 1]
    assert found.boxes is not None
    boxes = [_box(found.boxes[place], str(kind)) for place, kind in zip(matches.row, kinds, strict=True)]
    boxes += [_box(truth.boxes[place], "missed") for place in missed]
    points = [(float(x), float(y)) for x, y in found.keypoints.reshape(-1, 2) if np.isfinite((x, y)).all()]
    text = f"{len(missed)} missed, {int((kinds == 'false').sum())} false, {int(matches.right.sum())} right"
    return FoundView(row, text, boxes, points)


def _box(edges: np.ndarray, kind: str) -> FoundBox:
    x0, y0, x1, y1 = map(float, edges)
    return FoundBox(x0, y0, x1 - x0, y1 - y0, kind)
