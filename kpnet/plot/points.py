"""Points on images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from torch import Tensor, nn

from kpnet.coordinates import normalized_to_pixel
from kpnet.core.display import figure_text
from kpnet.core.errors import KpnetError
from kpnet.core.runtime import evaluation_mode
from kpnet.plot.figure import Figure

TRUTH, PREDICTION = "#18e05a", "#ff2b2b"
SMALL = 256  # a smaller image is enlarged before points are drawn on it


def show_keypoint_predictions(dataset: Any, model: nn.Module, num_samples: int = 3) -> Figure:
    """Draw the first samples of a dataset with true and predicted points, as exercise 9 of the I2DL course does.

    Args:
        dataset: Items with `image` (C, H, W), `keypoints` (K, 2) in [-1, 1] and, optionally, `visible` (K,).
        model: A module that returns K points in [-1, 1], in any shape, for images (1, C, H, W). Dataset and model may
            change places.
        num_samples: Number of samples to draw.

    Returns:
        The figure of `draw_predictions`.

    Raises:
        KpnetError: There is no sample to draw.

    Example:
        ```python
        kpnet.plot.show_keypoint_predictions(kpnet.data.SyntheticFaces(3), model)
        ```
    """
    if isinstance(dataset, nn.Module):
        dataset, model = model, dataset
    count = min(num_samples, len(dataset))
    if count < 1:
        raise KpnetError(f"nothing to show: {num_samples} samples of a dataset of {len(dataset)}")
    items = [dataset[i] for i in range(count)]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with torch.no_grad(), evaluation_mode(model):
        predicted = [model(item["image"][None].to(device)).reshape(-1, 2) for item in items]
    # A clip is shown by the frame that its points belong to.
    frame = model.frame_window[0] if items[0]["image"].ndim == 4 else None  # type: ignore[index]
    return draw_predictions(
        [item["image"] if frame is None else item["image"][frame] for item in items],
        [item["keypoints"] for item in items],
        predicted,
        [item["visible"] for item in items] if "visible" in items[0] else None,
    )


def draw_predictions(
    images: Tensor | Sequence[Tensor],
    truth: Tensor | Sequence[Tensor] | None,
    predicted: Tensor | Sequence[Tensor],
    visible: Tensor | Sequence[Tensor] | None = None,
    titles: Sequence[str] | None = None,
    columns: int | None = None,
) -> Figure:
    """Draw a grid of images with true points as green crosses and predictions as red dots.

    All batches may be lists instead, of images of different sizes.

    Args:
        images: Images (B, C, H, W), float in [0, 1] or uint8.
        truth: True points (B, K, 2) in [-1, 1], or None.
        predicted: Predicted points (B, K, 2) in [-1, 1].
        visible: Which true points are labelled (B, K). None: those that are finite.
        titles: Titles of the images. None: the mean distance between truth and prediction in pixels.
        columns: Number of images side by side, at most. None: about as many as there are rows.

    Returns:
        The grid, with a legend below it.

    Raises:
        KpnetError: There is no image.

    Example:
        ```python
        kpnet.plot.draw_predictions(batch["image"], batch["keypoints"], model(batch["image"]), batch["visible"])
        ```
    """
    count = len(images)
    if not count:
        raise KpnetError("no images to draw")
    columns = min(count, columns or (count if count <= 4 else math.ceil(math.sqrt(1.3 * count))))
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(2.4 * columns, 2.62 * rows + 0.3), dpi=150, layout="constrained")
    for i in range(count):
        axes = figure.add_subplot(rows, columns, i + 1)
        labelled = None if visible is None else _numpy(visible[i]).astype(bool)
        true = None if truth is None else _numpy(truth[i])
        distance = _draw_sample(axes, images[i], true, _numpy(predicted[i]), labelled)
        axes.set_title(figure_text(titles[i]) if titles is not None else distance, fontsize=9)
    handles = [_marker("o", PREDICTION, "predicted")]
    if truth is not None:
        handles.insert(0, _marker("+", TRUTH, "true"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def draw_points(
    image: np.ndarray,
    xy: np.ndarray,
    confidence: np.ndarray | None = None,
    edges: Sequence[tuple[int, int]] = (),
) -> np.ndarray:
    """Draw a dot at every point into a copy of an image, from red (confidence 0) to green (confidence 1).

    An image under 256 px is enlarged by an integer factor f; pixel (x, y) is then at ((x + 0.5) f - 0.5,
    (y + 0.5) f - 0.5).

    Args:
        image: Image (H, W) or RGB (H, W, 3), uint8.
        xy: Points (K, 2) in pixels of the image. Those that are not finite are not drawn.
        confidence: Confidence of each point (K,) in [0, 1]. None: all dots are red.
        edges: Pairs of indices of points to connect.

    Returns:
        RGB image, uint8.

    Example:
        ```python
        prediction = predictor("photo.jpg")
        plot.draw_points(image, prediction.keypoints[0], prediction.confidence[0], model.skeleton.edge_indices)
        ```
    """
    height, width = image.shape[:2]
    factor = math.ceil(1.5 * SMALL / max(height, width)) if max(height, width) < SMALL else 1
    canvas = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 or image.shape[2] == 1 else image.copy()
    if factor > 1:
        canvas = cv2.resize(canvas, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    points = (np.asarray(xy, np.float64) + 0.5) * factor - 0.5
    # Not NaN, nor so far outside that fixed-point coordinates overflow.
    drawn = (np.abs(points) < 10 * max(canvas.shape)).all(-1)
    unit = max(canvas.shape[:2]) / 400
    for a, b in edges:
        if drawn[a] and drawn[b]:
            ends = (_fixed(points[a]), _fixed(points[b]))
            cv2.line(canvas, *ends, (255, 225, 90), max(1, round(unit)), cv2.LINE_AA, _SHIFT)
    for k in np.flatnonzero(drawn):
        value = 0.0 if confidence is None else float(np.clip(np.nan_to_num(confidence[k]), 0, 1))
        colour = (round(255 * min(1, 2 - 2 * value)), round(230 * min(1, 2 * value)), 40)
        for radius, paint in ((4.4 * unit, (20, 20, 20)), (3.2 * unit, colour)):
            cv2.circle(canvas, _fixed(points[k]), round(radius * 2**_SHIFT), paint, -1, cv2.LINE_AA, _SHIFT)
    return canvas


_SHIFT = 6  # cv2 draws at a precision of 1 / 2^6 pixels


def _fixed(point: np.ndarray) -> tuple[int, int]:
    x, y = np.rint(point * 2**_SHIFT).astype(int)
    return int(x), int(y)


def _numpy(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _draw_sample(
    axes: Axes, image: Tensor, truth: np.ndarray | None, predicted: np.ndarray, visible: np.ndarray | None
) -> str:
    """Draw one sample; return its title, the mean distance in pixels."""
    pixels = _numpy(image)
    size = (pixels.shape[-2], pixels.shape[-1])
    pixels = pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels.mean(0)
    top = 255 if image.dtype == torch.uint8 else 1
    axes.imshow(np.clip(pixels / top, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="bicubic")
    axes.set_axis_off()
    axes.autoscale(False)  # a point far outside does not shrink the image
    dots = normalized_to_pixel(predicted.astype(np.float64), size)
    title = ""
    if truth is not None:
        visible = np.isfinite(truth).all(-1) if visible is None else visible
        crosses = normalized_to_pixel(truth.astype(np.float64), size)[visible]
        axes.plot(*crosses.T, "+", color=TRUTH, markersize=8, markeredgewidth=1.4)
        if len(crosses):
            title = f"{np.hypot(*(dots[visible] - crosses).T).mean():.2f} px off"
    axes.plot(*dots.T, "o", color=PREDICTION, markersize=3.2, markeredgewidth=0)
    return title


def _marker(marker: str, colour: str, label: str) -> Line2D:
    return Line2D([], [], linestyle="", marker=marker, color=colour, label=label, markeredgewidth=1.4 * (marker == "+"))
