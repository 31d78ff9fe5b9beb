"""The report's gallery: the same images for every row, with truth, prediction and heatmaps."""

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
from kpnet.experiments.report.charts import ReportRow
from kpnet.heads import window_of
from kpnet.models.build import load_model

KINDS = ("best", "median", "worst")


@dataclass
class GalleryImage:
    """An image of the gallery, and each row's answer to it; points (x, y) in its pixels."""

    title: str
    width: int
    height: int
    image: str  # data URI
    truth: list[tuple[float, float]]
    answers: list[GalleryPrediction]


@dataclass
class GalleryPrediction:
    """A row's: its points, their error, its heatmaps' maximum as a data URI, or None."""

    row: str
    points: list[tuple[float, float]]
    rmse: float
    heatmap: str | None


def comparable(rows: Sequence[ReportRow]) -> list[ReportRow]:
    """The rows of the first one's images and points."""
    return [row for row in rows if _alike(row, rows[0])]


def build_gallery(rows: Sequence[ReportRow]) -> list[GalleryImage]:
    """The best, the median and the worst image of each row's first run, shown for all rows; they are `comparable`."""
    first = rows[0].results[0]
    chosen: dict[int, list[str]] = {}
    for row in rows:
        order = np.argsort(_errors(row))
        order = order[: np.isfinite(_errors(row)).sum()]
        for kind, place in zip(KINDS, (0, len(order) // 2, -1), strict=True):
            chosen.setdefault(int(order[place]), []).append(f"{kind} of {row.name}")
    dataset = _images(rows[0])
    maps = [_heatmaps(row, sorted(chosen)) for row in rows]
    pictures = []
    for index in sorted(chosen, key=lambda i: float(_errors(rows[0])[i])):
        pixels = dataset.sample_pixels(index)[0]
        truth = np.where(first.visible[index][:, None], first.target[index], np.nan)
        answers = [
            GalleryPrediction(
                row.name,
                _pixels(row.results[0].predicted[index], row.results[0].input_size, pixels),
                float(_errors(row)[index]),
                held.get(index),
            )
            for row, held in zip(rows, maps, strict=True)
        ]
        title = f"{dataset.image_name(index)}: {', '.join(chosen[index])}"
        shown = [p for p in _pixels(truth, first.input_size, pixels) if np.isfinite(p).all()]
        pictures.append(GalleryImage(title, pixels.shape[1], pixels.shape[0], _uri(pixels), shown, answers))
    return pictures


def _images(row: ReportRow) -> KeypointDataset:
    """Those that the first run was measured on, from where they lie now."""
    result = row.results[0]
    dataset = build_val(row.configs[0], Skeleton.from_names(result.names), window_of(row.configs[0].model.head))
    assert dataset is not None
    return dataset


def _alike(row: ReportRow, first: ReportRow) -> bool:
    a, b = row.results[0], first.results[0]
    return a.names == b.names and a.target.shape == b.target.shape and np.allclose(a.target, b.target, atol=1e-4)


def _errors(row: ReportRow) -> np.ndarray:
    """Root mean square error per coordinate of each image (N,), in pixels of the row's input; NaN without a point."""
    result = row.results[0]
    points = [normalized_to_pixel(p.astype(float), result.input_size) for p in (result.predicted, result.target)]
    squared = np.where(result.visible, ((points[0] - points[1]) ** 2).sum(-1) / 2, 0).sum(1)
    count = result.visible.sum(1)
    return np.sqrt(squared / np.where(count, count, np.nan))


def _pixels(points: np.ndarray, size: tuple[int, int], image: np.ndarray) -> list[tuple[float, float]]:
    """Normalised points in the pixels of the image that is shown."""
    found = normalized_to_pixel(points.astype(float), (image.shape[0], image.shape[1]))
    return [(float(x), float(y)) for x, y in found]


def _heatmaps(row: ReportRow, indices: Sequence[int]) -> dict[int, str]:
    """The heatmaps' maximum over the points, of each image, as a picture of cells."""
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


def _uri(image: np.ndarray) -> str:
    return _encode(image if image.ndim == 2 or image.shape[2] == 1 else image[..., :3][..., ::-1], ".jpg")


def _encode(image: Any, kind: str) -> str:
    data = cv2.imencode(kind, np.ascontiguousarray(image))[1].tobytes()
    return f"data:image/{'jpeg' if kind == '.jpg' else 'png'};base64,{base64.b64encode(data).decode()}"
