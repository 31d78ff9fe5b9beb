"""Points on images."""

from __future__ import annotations

import colorsys
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
LINE = (255, 225, 90)  # of the edges of one instance
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
    radius: np.ndarray | None = None,
) -> np.ndarray:
    """Draw a dot at every point into a copy of an image, from red (confidence 0) to green (confidence 1).

    An image under 256 px is enlarged by an integer factor f; pixel (x, y) is then at ((x + 0.5) f - 0.5,
    (y + 0.5) f - 0.5).

    Args:
        image: Image (H, W) or RGB (H, W, 3), uint8.
        xy: Points (K, 2) in pixels of the image. Those that are not finite are not drawn.
        confidence: Confidence of each point (K,) in [0, 1]. None: all dots are red.
        edges: Pairs of indices of points to connect.
        radius: Guaranteed radius of each point (K,) in pixels of the image, drawn as a circle. None: no circles.

    Returns:
        RGB image, uint8.

    Example:
        ```python
        prediction = predictor("photo.jpg")
        plot.draw_points(image, prediction.keypoints[0], prediction.confidence[0], model.skeleton.edge_indices)
        ```
    """
    canvas, factor = _canvas(image)
    points = (np.asarray(xy, np.float64) + 0.5) * factor - 0.5
    _draw_lines(canvas, points, edges, LINE)
    if radius is not None:
        _draw_circles(canvas, points, radius * factor, LINE)
    for k in np.flatnonzero(_drawable(canvas, points)):
        value = 0.0 if confidence is None else float(confidence[k])
        _draw_dot(canvas, points[k], _confidence_colour(value), (20, 20, 20))
    return canvas


def draw_instances(
    image: np.ndarray,
    xy: np.ndarray,
    confidence: np.ndarray | None = None,
    edges: Sequence[tuple[int, int]] = (),
    boxes: np.ndarray | None = None,
    ids: Sequence[int] | None = None,
    labels: Sequence[str] | None = None,
    radius: np.ndarray | None = None,
) -> np.ndarray:
    """Draw the points of several instances into a copy of an image, each instance in a colour of its own.

    The colour is that of the edges, the box, and the rings of the dots, which are filled from red (confidence 0) to
    green (confidence 1). A small image is enlarged, as by `draw_points`.

    Args:
        image: Image (H, W) or RGB (H, W, 3), uint8.
        xy: Points (N, K, 2) in pixels of the image. Those that are not finite are not drawn.
        confidence: Confidence of each point (N, K) in [0, 1]. None: dots are filled with the instance's colour.
        edges: Pairs of indices of points to connect.
        boxes: Boxes (N, 4), edges x0, y0, x1, y1 in pixels of the image. None: no boxes.
        ids: Numbers that choose the colours, such as identities over a video. None: 0, 1, 2, …
        labels: Texts at the instances' upper left. None: no texts.
        radius: Guaranteed radius of each point (N, K) in pixels of the image, drawn as a circle. None: no circles.

    Returns:
        RGB image, uint8.

    Example:
        ```python
        prediction = predictor("photo.jpg")
        plot.draw_instances(image, prediction.keypoints, prediction.confidence, boxes=prediction.boxes)
        ```
    """
    canvas, factor = _canvas(image)
    unit = max(canvas.shape[:2]) / 400
    for n, own in enumerate((np.asarray(xy, np.float64) + 0.5) * factor - 0.5):
        colour = instance_colour(n if ids is None else ids[n])
        drawn = _drawable(canvas, own)
        corners = own[drawn] if boxes is None else (np.reshape(boxes[n], (2, 2)) + 0.5) * factor - 0.5
        if boxes is not None and _drawable(canvas, corners).all():
            ends = (_fixed(corners[0]), _fixed(corners[1]))
            cv2.rectangle(canvas, *ends, colour, max(1, round(unit)), cv2.LINE_AA, _SHIFT)
        _draw_lines(canvas, own, edges, colour)
        if radius is not None:
            _draw_circles(canvas, own, radius[n] * factor, colour)
        for k in np.flatnonzero(drawn):
            inner = colour if confidence is None else _confidence_colour(float(confidence[n, k]))
            _draw_dot(canvas, own[k], inner, (20, 20, 20) if confidence is None else colour)
        if labels is not None and len(corners) and np.isfinite(corners).all():
            x, y = corners.min(0)
            place = (round(max(0.0, x)), round(max(10 * unit, y - 4 * unit)))
            cv2.putText(canvas, labels[n], place, cv2.FONT_HERSHEY_SIMPLEX, 0.4 * unit, colour, max(1, round(unit)))
    return canvas


def instance_colour(number: int) -> tuple[int, int, int]:
    """Return the colour of an instance or an identity; those of neighbouring numbers are far apart.

    Args:
        number: Its number, 0 or above.

    Returns:
        Red, green and blue from 0 to 255.
    """
    hue = (0.58 + number * (math.sqrt(5) - 1) / 2) % 1  # steps of the golden ratio
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _canvas(image: np.ndarray) -> tuple[np.ndarray, int]:
    """Return a copy of an image as RGB, and the factor by which it was enlarged."""
    side = max(image.shape[:2])
    factor = math.ceil(1.5 * SMALL / side) if side < SMALL else 1
    canvas = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 or image.shape[2] == 1 else image.copy()
    if factor > 1:
        canvas = cv2.resize(canvas, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return canvas, factor


def _drawable(canvas: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return which points are neither NaN nor so far outside that fixed-point coordinates overflow."""
    drawn: np.ndarray = (np.abs(points) < 10 * max(canvas.shape)).all(-1)
    return drawn


def _draw_lines(
    canvas: np.ndarray, points: np.ndarray, edges: Sequence[tuple[int, int]], colour: tuple[int, int, int]
) -> None:
    drawn, width = _drawable(canvas, points), max(1, round(max(canvas.shape[:2]) / 400))
    for a, b in edges:
        if drawn[a] and drawn[b]:
            cv2.line(canvas, _fixed(points[a]), _fixed(points[b]), colour, width, cv2.LINE_AA, _SHIFT)


def _draw_circles(canvas: np.ndarray, points: np.ndarray, radius: np.ndarray, colour: tuple[int, int, int]) -> None:
    drawn, width = _drawable(canvas, points), max(1, round(max(canvas.shape[:2]) / 400))
    for k in np.flatnonzero(drawn & (radius < 10 * max(canvas.shape))):  # not with NaN either
        cv2.circle(canvas, _fixed(points[k]), round(radius[k] * 2**_SHIFT), colour, width, cv2.LINE_AA, _SHIFT)


def _draw_dot(canvas: np.ndarray, point: np.ndarray, colour: tuple[int, int, int], ring: tuple[int, int, int]) -> None:
    unit = max(canvas.shape[:2]) / 400
    for radius, paint in ((4.4 * unit, ring), (3.2 * unit, colour)):
        cv2.circle(canvas, _fixed(point), round(radius * 2**_SHIFT), paint, -1, cv2.LINE_AA, _SHIFT)


def _confidence_colour(confidence: float) -> tuple[int, int, int]:
    """Return a colour from red (0, or NaN) to green (1)."""
    value = float(np.clip(np.nan_to_num(confidence), 0, 1))
    return round(255 * min(1, 2 - 2 * value)), round(230 * min(1, 2 * value)), 40


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
