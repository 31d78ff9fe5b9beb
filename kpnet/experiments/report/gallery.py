"""The report's gallery: the same images for every row, with true points, predictions and heatmaps."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch

from kpnet.coordinates import normalized_to_pixel
from kpnet.core.skeleton import Skeleton
from kpnet.data import KeypointDataset
from kpnet.data.build import build_val
from kpnet.data.wrappers.subset import Subset
from kpnet.experiments.report.charts import ReportRow
from kpnet.heads import finds_instances, window_of
from kpnet.models.build import load_model

KINDS = ("best", "median", "worst")
NARROWEST, WIDEST = 176, 384  # of an image on the page, in pixels of CSS
STORED = 1024  # a longer side is reduced to this


@dataclass
class GalleryImage:
    """An image of the gallery, and each row's prediction for it.

    Attributes:
        title: File name, and why the image was chosen.
        width: Width in pixels.
        height: Height in pixels.
        shown: Width on the page, in pixels of CSS.
        image: The image as a data URI, reduced where it is large.
        truth: True points (x, y) in its pixels.
        predictions: A prediction per row.
    """

    title: str
    width: int
    height: int
    shown: int
    image: str
    truth: list[tuple[float, float]]
    predictions: list[GalleryPrediction]


@dataclass
class GalleryPrediction:
    """A row's prediction for an image.

    Attributes:
        row: Name of the row.
        points: Predicted points (x, y) in the image's pixels.
        rmse: Root mean square error per coordinate, in pixels of the row's input.
        heatmap: Maximum of the heatmaps over the points as a data URI; None for heads without heatmaps.
    """

    row: str
    points: list[tuple[float, float]]
    rmse: float
    heatmap: str | None


def comparable(rows: Sequence[ReportRow]) -> list[ReportRow]:
    """Return the rows that have the same images and points as the first."""
    return [row for row in rows if _alike(row, rows[0])]


def build_gallery(rows: Sequence[ReportRow]) -> list[GalleryImage]:
    """Return the best, median and worst image of each row's first run, with the predictions of all rows.

    The rows must be `comparable`.
    """
    first = rows[0].results[0]
    chosen: dict[int, list[str]] = {}
    for row in rows:
        order = np.argsort(_errors(row))
        order = order[: np.isfinite(_errors(row)).sum()]
        for kind, place in zip(KINDS, (0, len(order) // 2, -1), strict=True):
            chosen.setdefault(int(order[place]), []).append(f"{kind} of {row.name}")
    dataset = _images(rows[0])
    maps = [_heatmaps(row, sorted(chosen)) for row in rows]
    gallery = []
    for index in sorted(chosen, key=lambda i: float(_errors(rows[0])[i])):
        pixels = dataset.sample_pixels(index)[0]
        truth = np.where(first.visible[index][:, None], first.target[index], np.nan)
        predictions = [
            GalleryPrediction(
                row.name,
                _pixels(row.results[0].predicted[index], row.results[0].input_size, pixels),
                float(_errors(row)[index]),
                held.get(index),
            )
            for row, held in zip(rows, maps, strict=True)
        ]
        title = f"{dataset.image_name(index)}: {', '.join(chosen[index])}"
        points = [p for p in _pixels(truth, first.input_size, pixels) if np.isfinite(p).all()]
        height, width = pixels.shape[:2]
        shown = min(max(2 * width, NARROWEST), WIDEST)
        gallery.append(GalleryImage(title, width, height, shown, image_uri(pixels), points, predictions))
    return gallery


def _images(row: ReportRow) -> KeypointDataset:
    """Open the validation data that the row's first run was measured on."""
    result = row.results[0]
    dataset = build_val(row.configs[0], Skeleton.from_names(result.names), window_of(row.configs[0].model.head))
    assert dataset is not None
    return by_image(dataset) if finds_instances(row.configs[0].model.head) else dataset


def by_image(dataset: KeypointDataset) -> KeypointDataset:
    """Return the labelled samples in the order of whole images: those of an image stand together."""
    keys = [dataset.image_key(index) for index in range(len(dataset))]
    labelled: np.ndarray = np.asarray(dataset.labels().any(-1))
    place = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    order = np.argsort([place[key] for key in keys], kind="stable")
    return Subset(dataset, order[labelled[order]])


def _alike(row: ReportRow, first: ReportRow) -> bool:
    """Return whether two rows were measured on the same images and points."""
    a, b = row.results[0], first.results[0]
    return a.names == b.names and a.target.shape == b.target.shape and np.allclose(a.target, b.target, atol=1e-4)


def _errors(row: ReportRow) -> np.ndarray:
    """Return each image's RMSE per coordinate (N,), in pixels of the row's input; NaN without labelled points."""
    result = row.results[0]
    points = [normalized_to_pixel(p.astype(float), result.input_size) for p in (result.predicted, result.target)]
    squared = np.where(result.visible, ((points[0] - points[1]) ** 2).sum(-1) / 2, 0).sum(1)
    count = result.visible.sum(1)
    return np.sqrt(squared / np.where(count, count, np.nan))


def _pixels(points: np.ndarray, size: tuple[int, int], image: np.ndarray) -> list[tuple[float, float]]:
    """Convert normalised points to pixels of an image."""
    found = normalized_to_pixel(points.astype(float), (image.shape[0], image.shape[1]))
    return [(float(x), float(y)) for x, y in found]


def _heatmaps(row: ReportRow, indices: Sequence[int]) -> dict[int, str]:
    """Return the maximum of the heatmaps over the points, for each image, as a data URI; none without heatmaps."""
    model, dataset = load_model(row.runs[0]), _images(row)
    found = {}
    for index in indices:
        maps = model.infer(dataset[index]["image"][None]).heatmaps
        if maps is None:
            return {}
        relative: torch.Tensor = (maps[0] / maps[0].amax((-2, -1), keepdim=True)).amax(0)
        heat = cv2.applyColorMap((255 * relative.sqrt()).byte().numpy(), cv2.COLORMAP_INFERNO)
        found[index] = _encode(heat, ".png")
    return found


def image_uri(image: np.ndarray) -> str:
    """Return an image, grey or RGB, as a data URI."""
    scale = STORED / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return _encode(image if image.ndim == 2 or image.shape[2] == 1 else image[..., :3][..., ::-1], ".jpg")


def _encode(image: Any, kind: str) -> str:
    """Return an image, grey or BGR, as a data URI of this file type."""
    data = cv2.imencode(kind, np.ascontiguousarray(image))[1].tobytes()
    return f"data:image/{'jpeg' if kind == '.jpg' else 'png'};base64,{base64.b64encode(data).decode()}"
